// Keeps the page up to date from one stream of server-sent events.

import { fillSlots, say } from "./actions.js";
import { morph, morphChildren, parse } from "./morph.js";
import { tellTimes } from "./times.js";

const state = document.querySelector("[data-live-state]");
const word = document.querySelector("[data-live-word]");
const announcer = document.querySelector("[data-announcer]");

function show(how, text) {
  state.hidden = false;
  state.dataset.liveState = how;
  word.textContent = text;
}

function apply({ fragments, lists }) {
  for (const [name, html] of Object.entries(fragments)) {
    const target = document.querySelector(`[data-part="${CSS.escape(name)}"]`);
    if (!target) continue;
    const parsed = parse(html);
    const whole = parsed.firstElementChild;
    if (whole?.dataset.part === name) morph(target, whole);
    else morphChildren(target, parsed);
  }
  for (const [name, order] of Object.entries(lists)) arrange(name, order, fragments);
  tellTimes();
  fillSlots();
  followStatus();
}

function arrange(name, order, fragments) {
  const list = document.querySelector(`[data-list="${CSS.escape(name)}"]`);
  if (!list) return;
  const known = new Map([...list.children].map((child) => [child.dataset.part, child]));
  let at = list.firstElementChild;
  for (const part of order) {
    const child = known.get(part) ?? (fragments[part] ? parse(fragments[part]).firstElementChild : null);
    if (!child) continue;
    known.delete(part);
    if (child === at) at = at.nextElementSibling;
    else list.insertBefore(child, at);
  }
  for (const gone of known.values()) gone.remove();
}

function followStatus() {
  const head = document.querySelector("[data-status]");
  if (!head) return;
  for (const act of document.querySelectorAll("[data-when]")) act.hidden = act.dataset.when !== head.dataset.status;
  const told = head.dataset.announce;
  if (told && announcer.textContent !== told) announcer.textContent = told;
}

function connect(address) {
  const source = new EventSource(address);
  source.addEventListener("open", () => show("on", "live"));
  source.addEventListener("parts", (event) => apply(JSON.parse(event.data)));
  source.addEventListener("trouble", (event) => {
    const trouble = JSON.parse(event.data);
    if (trouble) show("off", "waiting for the database");
    else show("on", "live");
    if (trouble) say(trouble, true);
  });
  source.addEventListener("error", () => {
    show("off", "reconnecting");
    if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
    source.close();
    setTimeout(() => connect(address), 10000 + Math.random() * 10000);
  });
  addEventListener("pagehide", () => source.close(), { once: true });
}

tellTimes();
fillSlots();
followStatus();
setInterval(tellTimes, 10000);
if (document.body.dataset.events) connect(document.body.dataset.events);
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
