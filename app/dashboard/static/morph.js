// Changes what is shown into what should be shown, touching only what differs: focus, selection, scroll positions,
// open details and what somebody is typing stay as they are.

const key = (node) => node.nodeType === 1 ? node.getAttribute("data-part") ?? node.getAttribute("data-key") ?? node.id ?? "" : "";

const alike = (one, other) =>
  one.nodeType === other.nodeType && one.nodeName === other.nodeName && key(one) === key(other);

export function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html; // made by this server's templates, which escape everything
  return template.content;
}

export function morphChildren(target, source) {
  const wanted = [...source.childNodes];
  let at = target.firstChild;
  for (const next of wanted) {
    const found = find(at, next);
    if (found === null) {
      target.insertBefore(next, at);
      continue;
    }
    while (at !== found) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    at = found.nextSibling;
    morph(found, next);
  }
  while (at !== null) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function find(from, wanted) {
  const named = key(wanted) !== "";
  for (let node = from, steps = 0; node !== null && (named || steps < 2); node = node.nextSibling, steps += 1) {
    if (alike(node, wanted)) return node;
  }
  return null;
}

export function morph(node, wanted) {
  if (node.nodeType !== 1) {
    if (node.nodeValue !== wanted.nodeValue) node.nodeValue = wanted.nodeValue;
    return;
  }
  if (node.hasAttribute("data-slot") || node.isEqualNode(wanted)) return;
  if (node.nodeName === "TIME" && node.dateTime === wanted.dateTime) return;
  if (node.hasAttribute("data-shown-all")) return;
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && !(node.nodeName === "DETAILS" && name === "open")) node.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value && !(node.nodeName === "DETAILS" && name === "open")) node.setAttribute(name, value);
  }
  if (node.nodeName !== "TEXTAREA" && node !== document.activeElement) morphChildren(node, wanted);
  else if (node.nodeName === "A" || node.nodeName === "BUTTON" || node.nodeName === "SUMMARY") morphChildren(node, wanted);
}
