// Forms that act: sent without leaving the page, and answered where they are.

const PIECE = 4000; // characters
const toast = document.querySelector("[data-toast]");

export function say(text, bad = false) {
  toast.textContent = text;
  toast.classList.toggle("bad", bad);
  toast.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => toast.classList.remove("shown"), 8000);
}

async function send(form) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form)),
      redirect: "manual",
    });
    if (answer.type === "opaqueredirect" || answer.status === 401) return location.reload(); // signed out meanwhile
    const told = await answer.json();
    if (answer.ok) return done(form, told);
    if (told.faults) return showFaults(form, told.faults);
    say(told.error ?? told.detail ?? "This could not be done.", true);
  } catch {
    say("The server cannot be reached; nothing was sent.", true);
  } finally {
    button.disabled = false;
  }
}

function done(form, { location: address, message }) {
  if (address && new URL(address, location.href).pathname !== location.pathname) {
    sessionStorage.setItem("geoworker-message", message);
    location.assign(address);
    return;
  }
  say(message);
  const panel = form.closest("details.act");
  if (panel) panel.open = false;
  if (form.closest("[data-slot]")) form.remove();
}

function showFaults(form, faults) {
  const box = document.querySelector("[data-form-faults]");
  for (const list of form.querySelectorAll("[data-faults-of]")) list.replaceChildren();
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const summary = box.querySelector("ul");
  summary.replaceChildren();
  for (const [name, text] of faults) {
    const item = document.createElement("li");
    const field = document.getElementById(`f-${name}`);
    const list = form.querySelector(`[data-faults-of="${CSS.escape(name)}"]`);
    const line = document.createElement(field ? "a" : "bdi");
    line.textContent = text;
    if (field) {
      line.href = `#f-${name}`;
      field.setAttribute("aria-invalid", "true");
    }
    if (list) list.append(Object.assign(document.createElement("li"), { textContent: text.replace(/^[^:]*: /, "") }));
    item.append(line);
    summary.append(item);
  }
  box.hidden = false;
  (form.querySelector("[aria-invalid]") ?? box).focus();
  box.scrollIntoView({ block: "nearest" });
}

// A line of a million characters takes a browser minutes to lay out: blocks that are laid out when they are seen do not.
function pieces(text) {
  const made = [];
  for (let start = 0; start < text.length; ) {
    let end = Math.min(text.length, start + PIECE);
    const line = end < text.length ? text.lastIndexOf("\n", end) : -1;
    const cut = line > start;
    if (cut) end = line;
    const piece = document.createElement("span");
    piece.className = "piece";
    piece.dir = "auto";
    piece.textContent = text.slice(start, end);
    made.push(piece);
    start = cut ? end + 1 : end;
  }
  return made;
}

async function showAll(link) {
  const pre = link.parentElement.querySelector("pre");
  if (!pre) return false;
  const answer = await fetch(link.href);
  if (!answer.ok) return say("The text could not be loaded.", true);
  pre.replaceChildren(...pieces(await answer.text()));
  pre.setAttribute("data-shown-all", "");
  link.textContent = "Open as plain text";
  link.removeAttribute("data-show-all");
  pre.focus();
  return true;
}

export function fillSlots() {
  const template = document.querySelector("template[data-entry-action]");
  if (!template) return;
  for (const entry of document.querySelectorAll("[data-entry]")) {
    const slot = entry.querySelector("[data-slot]");
    if (slot.firstChild) continue;
    slot.append(template.content.cloneNode(true));
    slot.querySelector("form").action = `/callbacks/${entry.dataset.entry}/replay`;
    slot.querySelector("button").setAttribute("aria-label", `Send message ${entry.dataset.entry} again`);
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-action]")) return;
  event.preventDefault();
  send(event.target);
});

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-show-all]");
  if (!link || !link.parentElement.querySelector("pre")) return;
  event.preventDefault();
  showAll(link);
});

const message = sessionStorage.getItem("geoworker-message");
if (message) {
  sessionStorage.removeItem("geoworker-message");
  say(message);
}
