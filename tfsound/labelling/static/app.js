// The page on which a person answers: an answer is on disk before the next question is shown.

import { $, count, keep, make, say, stored } from "./dom.js";
import { Player, stopPlaying } from "./player.js";
import { Search } from "./search.js";
import { Gone, NewAddress, pending, request } from "./server.js";

const HEARTBEAT_MS = 2000;

let session = null; // what api/session said, and what replies said since
let index = null; // of the question shown; null on the last page
let chosen = []; // names of classes
let busy = true; // while a question or an answer is under way keys do nothing: nobody answers unheard
let gone = false;
let players = [];
let search = null;
const drafts = new Map(); // question_id -> what was chosen and not stored

// The server: there, gone, back.

function showGone(error) {
  let title = "The server is gone.";
  let text = "All answers given so far are on disk.";
  if (pending.get()) text = "Your last answer waits on this page and is stored as soon as the server is back.";
  text += " Start it again with the same command; this page then goes on by itself.";
  if (error instanceof NewAddress) {
    title = "The server runs under a new address.";
    text = "Close this page and open the address that the server printed when it started.";
  }
  gone = true;
  $("gone-title").textContent = title;
  $("gone-text").textContent = text;
  $("gone").hidden = false;
}

// Runs a step; without the server the banner comes up, and any other trouble is said.
async function attempt(step) {
  try {
    await step();
  } catch (error) {
    if (error instanceof Gone) showGone(error);
    else say(error.message);
  }
}

async function heartbeat() {
  await attempt(async () => {
    const { num_stored: numStored } = await request("api/alive");
    if (gone) await resume();
    else if (!busy && numStored !== session.num_stored) await refresh(); // answered in another tab
  });
  setTimeout(heartbeat, HEARTBEAT_MS);
}

async function resume() {
  const wasGone = gone;
  await refresh();
  gone = false;
  $("gone").hidden = true;
  if (pending.get()) await sendPending();
  else if (busy || index === null) await show(index ?? firstUnanswered(0));
  if (wasGone) say("The server is back.");
}

async function refresh() {
  session = await request("api/session");
  $("set-name").textContent = session.name;
  showProgress();
}

// Answers.

function current() {
  return session.questions[index];
}

async function submit(answer, labels = []) {
  if (busy || index === null) return;
  const before = current();
  const isSame = before.answer === answer && before.labels.join("\n") === labels.join("\n");
  const isNothingNew = answer === "labels" && labels.length === 0 && ["unsure", "none"].includes(before.answer);
  if (isSame || isNothingNew) {
    await attempt(() => show(firstUnanswered(index + 1)));
    return;
  }
  if (answer === "labels" && labels.length === 0) {
    say("Choose a class first, or press U for unsure, N for none of these.");
    return;
  }
  pending.set({ question_id: before.question_id, answer, labels });
  await attempt(sendPending);
}

async function sendPending() {
  const answer = pending.get();
  setBusy(true);
  let reply;
  try {
    reply = await request("api/answers", answer);
  } catch (error) {
    if (error instanceof Gone) throw error; // it waits
    pending.clear();
    await show(index ?? firstUnanswered(0));
    throw new Error(`Not stored: ${error.message}`, { cause: error });
  }
  pending.clear();
  drafts.delete(answer.question_id);
  const number = session.questions.findIndex((question) => question.question_id === answer.question_id);
  session.questions[number] = reply.question;
  Object.assign(session, reply.session);
  if (session.num_classes !== session.classes.length) await refresh();
  showProgress();
  const isTakenBack = answer.answer === "withdrawn";
  await show(isTakenBack ? number : firstUnanswered(number + 1));
  say(`Question ${number + 1}: ${isTakenBack ? "answer taken back" : `stored as ${inWords(reply.question)}`}.`);
}

function inWords({ answer, labels }) {
  if (answer === "unsure") return "unsure";
  if (answer === "none") return "none of these";
  return labels.map(displayName).join(", ");
}

function displayName(name) {
  return session.classes.find((soundClass) => soundClass.name === name)?.display_name ?? name;
}

// The next one from a place on, beginning again at the first; null when all are answered.
function firstUnanswered(from) {
  const numQuestions = session.questions.length;
  for (let step = 0; step < numQuestions; step++) {
    const number = (from + step) % numQuestions;
    if (session.questions[number].answer === null) return number;
  }
  return null;
}

// What is shown.

function setBusy(isBusy) {
  busy = isBusy;
  $("question").setAttribute("aria-busy", String(isBusy));
  for (const id of ["unsure", "none", "next", "withdraw"]) $(id).disabled = isBusy;
}

function showProgress() {
  const { num_answered: done, num_questions: all, seconds_left: left } = session.progress;
  $("progress").max = all;
  $("progress").value = done;
  const minutes = left < 60 ? "less than a minute" : `about ${count(Math.round(left / 60), "minute")}`;
  $("progress-text").textContent = `${done} of ${all} answered${left && done < all ? `, ${minutes} left` : ""}`;
  document.title = `${done}/${all} · ${session.name}`;
}

async function show(number) {
  setBusy(true);
  search.close();
  stopPlaying();
  index = number;
  $("question").hidden = $("actions").hidden = number === null;
  $("done").hidden = number !== null;
  if (number === null) {
    showDone();
    return;
  }
  const question = await request(`api/questions/${number}`);
  if (index !== number) return; // another one was asked for meanwhile
  const { question_id: id, answer, labels } = current();
  chosen = [...(drafts.get(id) ?? labels)];
  $("question-title").textContent = `Question ${number + 1} of ${session.questions.length}`;
  $("spread").textContent =
    question.cluster_size > 1
      ? `Your answer is spread over ${count(question.cluster_size, "window")}.`
      : "Your answer holds for this window alone.";
  showSounds(question);
  $("recorded").textContent = answer === "labels" ? `Stored: ${inWords(current())}` : "";
  $("unsure").setAttribute("aria-pressed", String(answer === "unsure"));
  $("none").setAttribute("aria-pressed", String(answer === "none"));
  $("withdraw").hidden = answer === null;
  $("back").disabled = number === 0;
  showChosen();
  setBusy(false);
  say("");
  toTitle();
  scrollTo(0, 0);
  if ($("autoplay").checked) players[0].play({ bySelf: true });
}

function toTitle() {
  $("question-title").focus({ preventScroll: true });
}

function showSounds({ sound, neighbours }) {
  players = [sound, ...neighbours].map(
    (each, number) => new Player(each, { key: number ? `⇧ ${number}` : "Space", isMain: number === 0 }),
  );
  $("sound").replaceChildren(players[0].root);
  $("neighbours").replaceChildren(...players.slice(1).map((player) => make("li", {}, player.root)));
  $("neighbours-part").hidden = neighbours.length === 0;
}

function showDone() {
  setBusy(false);
  $("done-title").textContent = "All questions are answered.";
  $("done-text").textContent =
    `${count(session.questions.length, "answer")} on disk. You can close this page and stop the server with ` +
    "Ctrl-C in its terminal; “tfsound answers” then spreads the answers over their clusters.";
  $("done-title").focus({ preventScroll: true });
}

function showChosen() {
  const items = chosen.map((name) => {
    const drop = make("button", { type: "button", text: "×", title: "Drop it (its key again)" });
    drop.setAttribute("aria-label", `Drop ${displayName(name)}`);
    drop.addEventListener("click", () => {
      toggle(name);
      toTitle(); // the button is gone
    });
    return make("li", {}, make("span", { text: displayName(name) }), drop);
  });
  const isWithout = ["unsure", "none"].includes(current().answer);
  const nothing = make("li", { className: "empty", text: isWithout ? `Stored: ${inWords(current())}` : "Nothing chosen yet" });
  $("chosen").replaceChildren(...(items.length ? items : [nothing]));
  const slots = session.slots.filter((slot) => slot.name !== null).map(slotButton);
  $("slots").replaceChildren(...slots);
  $("slots-empty").hidden = slots.length > 0;
}

function slotButton({ key, name }) {
  const texts = [make("kbd", { text: key.toUpperCase() }), make("span", { text: displayName(name) })];
  const button = make("button", { type: "button", className: "slot", title: displayName(name) }, ...texts);
  button.dataset.name = name;
  button.setAttribute("aria-pressed", String(chosen.includes(name)));
  button.addEventListener("click", () => {
    toggle(name);
    [...$("slots").children].find((each) => each.dataset.name === name)?.focus(); // it was drawn anew
  });
  return button;
}

function toggle(name) {
  if (busy || index === null) return;
  chosen = chosen.includes(name) ? chosen.filter((each) => each !== name) : [...chosen, name];
  drafts.set(current().question_id, chosen);
  showChosen();
  say("");
}

// Keys and buttons.

function goBack() {
  if (busy) return;
  const before = (index ?? session.questions.length) - 1;
  if (before >= 0) attempt(() => show(before));
}

function skip() {
  if (busy || index === null) return;
  attempt(() => show(index + 1 < session.questions.length ? index + 1 : firstUnanswered(0)));
}

function withdraw() {
  if (!busy && index !== null && current().answer !== null) submit("withdrawn");
}

const ACTIONS = {
  " ": () => players[0]?.toggle(),
  "w": () => players[0]?.play({ windowOnly: true }),
  "enter": () => submit("labels", chosen),
  "u": () => submit("unsure"),
  "n": () => submit("none"),
  "z": goBack,
  "backspace": goBack,
  "arrowleft": goBack,
  "arrowright": skip,
  "x": withdraw,
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
};

function onKey(event) {
  const { target, key } = event;
  if (session === null || $("help").open) return;
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  if (target === $("search")) return;
  if (target.matches("button, input") && [" ", "Enter"].includes(key)) return; // these work the control itself
  if (!$("shortcuts").checked && key !== "Enter") return;
  const neighbour = event.shiftKey && /^Digit([1-9])$/.exec(event.code);
  const slot = session.slots.find((each) => each.key === key.toLowerCase() && each.name !== null);
  let action = ACTIONS[key.toLowerCase()];
  if (slot) action = () => toggle(slot.name);
  if (neighbour) action = () => players[neighbour[1]]?.toggle();
  if (!action) return;
  event.preventDefault();
  action();
}

// After a click of the mouse keys mean what they always do: Enter is Next, not the same button again. Whoever came
// by keyboard stays where they are.
function onClick(event) {
  if (event.detail > 0 && !$("help").open && event.target.closest("button, .switch, .picture")) toTitle();
}

function remember(id) {
  $(id).checked = stored("localStorage", id, "yes") === "yes";
  $(id).addEventListener("change", () => keep("localStorage", id, $(id).checked ? "yes" : "no"));
}

async function start() {
  remember("autoplay");
  remember("shortcuts");
  search = new Search($("search"), $("results"), {
    session: () => session,
    isChosen: (name) => chosen.includes(name),
    choose: ({ name }) => chosen.includes(name) || toggle(name),
    leave: toTitle,
  });
  const clicks = {
    back: goBack,
    skip,
    withdraw,
    unsure: ACTIONS.u,
    none: ACTIONS.n,
    next: ACTIONS.enter,
    "done-back": goBack,
    "help-button": ACTIONS["?"],
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick);
  await attempt(resume);
  setTimeout(heartbeat, HEARTBEAT_MS);
}

start();
