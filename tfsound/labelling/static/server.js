// What the page asks the server for, and the answer that waits until the server has it on disk.

import { keep, stored } from "./dom.js";

const TIMEOUT_MS = 15000;
const PENDING = `pending ${location.pathname}`; // the address tells one run's questions from another's

export class Gone extends Error {} // no reply: stopped, killed, or too slow
export class NewAddress extends Gone {} // a server, but not the run that this page belongs to
export class Refused extends Error {} // a reply that says what is wrong

export async function request(path, body) {
  const options = { signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response, reply;
  try {
    response = await fetch(path, options);
    reply = await response.json();
  } catch (error) {
    if (response && !response.ok) throw new Refused(`the server says ${response.status}.`);
    throw new Gone(String(error));
  }
  if (response.ok) return reply;
  if (response.status === 403) throw new NewAddress(reply.error);
  throw new Refused(reply.error);
}

function uuid4() {
  // crypto.randomUUID is absent where the page comes from another machine without TLS.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

// One answer at most is under way. It keeps its id however often it is sent, so that a lost reply doubles nothing,
// and it outlives a reload of the page.
let inMemory = null;

export const pending = {
  get() {
    return inMemory ?? JSON.parse(stored("sessionStorage", PENDING, "null"));
  },
  set(answer) {
    inMemory = { answer_id: uuid4(), ...answer };
    keep("sessionStorage", PENDING, JSON.stringify(inMemory));
  },
  clear() {
    inMemory = null;
    keep("sessionStorage", PENDING, null);
  },
};
