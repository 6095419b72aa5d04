// Moments in words: "3 min ago", with the exact moment, in the reader's own zone, when pointed at.

const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const STEPS = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [604800, "day", 86400]];

function inWords(moment, now) {
  const seconds = (moment - now) / 1000;
  for (const [below, unit, length] of STEPS) {
    if (Math.abs(seconds) < below) return words.format(Math.round(seconds / length), unit);
  }
  return moment.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}

export function tellTimes(root = document) {
  const now = Date.now();
  for (const element of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const text = inWords(moment, now);
    if (element.textContent !== text) element.textContent = text;
    if (!element.title) element.title = moment.toLocaleString();
  }
}
