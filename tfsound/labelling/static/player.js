// A sound: its picture, the window in it, and its playing.

import { $, make, say } from "./dom.js";
import { Gone, request } from "./server.js";

const TICK_SECONDS = [0.5, 1, 2, 5, 10, 30, 60, 300];
const MAX_TICKS = 6;

let playing = null; // one sound at a time

export class Player {
  constructor(sound, { key, isMain }) {
    this.sound = sound;
    this.root = $("player-template").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.root.classList.toggle("main", isMain);
    this.audio = this.find("audio");
    this.button = this.find(".play");
    this.find(".play kbd").textContent = key;
    this.find(".name").textContent = sound.clip_id;
    this.find(".name").title = `clip ${sound.clip_id} of recording ${sound.recording_id}`;
    this.find(".when").textContent = `${clock(sound.start_seconds)} to ${clock(sound.end_seconds)}`;
    this.what = isMain ? "the sound" : `the neighbour ${sound.clip_id}`;
    this.showPlaying(false);
    if (sound.problem) this.fail(sound.problem);
    else this.prepare(isMain);
  }

  prepare(isMain) {
    this.audio.src = this.sound.audio;
    this.audio.addEventListener("error", () => this.fail("The browser cannot play this sound."));
    this.audio.addEventListener("ended", () => this.stop());
    this.button.addEventListener("click", () => this.toggle());
    this.find(".picture").addEventListener("click", (event) => this.playFrom(event));
    const { window: span, duration_seconds: duration } = this.sound;
    this.find(".play-window").hidden = !isMain || span === null;
    if (span !== null) {
      this.find(".play-window").addEventListener("click", () => this.play({ windowOnly: true }));
      this.place(".before", 0, span[0]);
      this.place(".window", span[0], span[1]);
      this.place(".after", span[1], duration);
    }
    this.showSpectrogram();
  }

  percent(seconds) {
    return `${(100 * seconds) / this.sound.duration_seconds}%`;
  }

  place(selector, start, end) {
    Object.assign(this.find(selector).style, { left: this.percent(start), width: this.percent(end - start) });
    this.find(selector).hidden = false;
  }

  fail(text) {
    this.button.disabled = true;
    this.find(".play-window").disabled = true;
    this.find(".note").textContent = text;
  }

  async showSpectrogram() {
    this.find(".note").textContent = "Drawing …";
    let picture;
    try {
      picture = await request(this.sound.spectrogram);
    } catch (error) {
      this.find(".note").textContent = error instanceof Gone ? "No picture: the server is gone." : error.message;
      return;
    }
    const image = this.find("img");
    image.alt = `Spectrogram of ${this.what}`;
    image.src = picture.image;
    this.place("img", picture.start_seconds, picture.end_seconds);
    this.find(".note").textContent = "";
    const ticks = picture.frequencies.map(({ hz, height }) => {
      const tick = make("span", { text: hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz` });
      tick.style.bottom = `${100 * height}%`;
      return tick;
    });
    this.find(".frequencies").replaceChildren(...ticks);
    this.showTimes();
  }

  showTimes() {
    const { audio_start_seconds: first, duration_seconds: duration } = this.sound;
    const step = TICK_SECONDS.find((each) => duration / each <= MAX_TICKS) ?? 600;
    const ticks = [];
    for (let number = Math.ceil(first / step); number * step <= first + duration; number++) {
      const tick = make("span", { text: `${Number((number * step).toFixed(1))} s` });
      tick.style.left = this.percent(number * step - first);
      ticks.push(tick);
    }
    this.find(".times").replaceChildren(...ticks);
  }

  toggle() {
    if (playing === this) this.stop();
    else this.play();
  }

  playFrom(event) {
    const box = this.find(".picture").getBoundingClientRect();
    this.play({ from: ((event.clientX - box.left) / box.width) * this.sound.duration_seconds });
  }

  async play({ bySelf = false, windowOnly = false, from = 0 } = {}) {
    const { window: span, problem } = this.sound;
    if (problem || (windowOnly && span === null)) return;
    playing?.stop();
    playing = this;
    this.until = windowOnly ? span[1] : Infinity;
    this.audio.currentTime = windowOnly ? span[0] : from;
    try {
      await this.audio.play();
    } catch (error) {
      if (playing === this) playing = null;
      if (error.name === "AbortError") return; // stopped again before it began
      const waits = error.name === "NotAllowedError" && bySelf; // browsers want a key or a click first
      say(waits ? "Press Play, or Space, to hear it." : `Cannot play: ${error.message}`);
      return;
    }
    if (playing !== this) return;
    this.showPlaying(true);
    this.follow();
  }

  stop() {
    if (playing === this) playing = null;
    this.audio.pause();
    this.showPlaying(false);
  }

  showPlaying(isPlaying) {
    this.root.classList.toggle("playing", isPlaying);
    const verb = isPlaying ? "Stop" : "Play";
    this.find(".play-text").textContent = verb;
    this.button.setAttribute("aria-label", `${verb} ${this.what}`);
    this.find(".playhead").hidden = !isPlaying;
  }

  follow() {
    if (playing !== this || this.audio.paused) return;
    if (this.audio.currentTime >= this.until) {
      this.stop();
      return;
    }
    this.find(".playhead").style.left = this.percent(this.audio.currentTime);
    requestAnimationFrame(() => this.follow());
  }
}

export function stopPlaying() {
  playing?.stop();
}

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  const rest = (seconds - 60 * minutes).toFixed(2);
  return minutes ? `${minutes}:${rest.padStart(5, "0")}` : `${rest} s`;
}
