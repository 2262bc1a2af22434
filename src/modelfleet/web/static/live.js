// Keeps a page current: asks for what changed since the tag that it has, and replaces only that.
// Everything else is the server's work; without this module the pages are the same, but still.

const main = document.querySelector("main[data-live]");

function place(element) {
  // Where the focus is inside a piece, so that it can be given back to the new one.
  const all = [...element.querySelectorAll("a, button, summary, input, select, [tabindex]")];
  return all.indexOf(document.activeElement);
}

function carryOver(before, after) {
  for (const open of before.querySelectorAll("details[id]")) {
    const twin = after.querySelector(`details[id="${CSS.escape(open.id)}"]`);
    if (twin) twin.open = open.open;
  }
  if (before.id && before.tagName === "DETAILS") after.open = before.open;
}

function scrolled(element) {
  return [...element.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
}

function swap(before, after) {
  const focused = before.contains(document.activeElement) ? place(before) : -1;
  const lefts = scrolled(before);
  carryOver(before, after);
  before.replaceWith(after);
  after.querySelectorAll(".scroll").forEach((one, k) => { one.scrollLeft = lefts[k] ?? 0; });
  if (focused >= 0) {
    const all = after.querySelectorAll("a, button, summary, input, select, [tabindex]");
    all[focused]?.focus({ preventScroll: true });
  }
}

function busy() {
  // Nobody's typing or choosing is thrown away.
  const active = document.activeElement;
  return active?.matches("input, select") && document.getElementById("live").contains(active);
}

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function apply(html, whole) {
  if (whole) {
    const region = document.createElement("div");
    region.id = "live";
    region.append(parsed(html));
    swap(document.getElementById("live"), region);
    return;
  }
  // One by one: a table row is dropped by the parser when it follows another kind of element.
  for (const [, piece] of html.matchAll(/<!--\[[^\]]+\]-->([^]*?)<!--\[\/\]-->/g)) {
    const after = parsed(piece).firstElementChild;
    const before = after && document.getElementById(after.id);
    if (before) swap(before, after);
  }
}

async function look() {
  const answer = await fetch(location.href, {
    headers: { "x-modelfleet-have": main.dataset.tag },
    cache: "no-store",
  });
  if (answer.status === 401) location.reload();
  if (answer.status >= 400) throw new Error(answer.statusText);
  if (answer.status === 200) {
    apply(await answer.text(), answer.headers.get("x-modelfleet-whole") === "1");
    main.dataset.tag = answer.headers.get("x-modelfleet-tag");
  }
}

const offline = document.getElementById("offline");
const pause = document.getElementById("pause");
const interval = Number(main?.dataset.live);
let paused = false;
let wait = interval;

async function keepLooking() {
  if (!paused && !document.hidden && !busy()) {
    try {
      await look();
      offline.hidden = true;
      wait = interval;
    } catch {
      offline.hidden = false;
      wait = Math.min(2 * wait, 30_000);
    }
  }
  setTimeout(keepLooking, wait);
}

if (main) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  setTimeout(keepLooking, wait);
}
