"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const KEY = `kto-lab-review-${DATA.audit}`;
const CHOICES = {k: "keep", f: "flip", d: "drop", s: "skip"};
const at = id => document.getElementById(id);
const words = up => (up ? "thumbs up" : "thumbs down");
// example_id to decision; what each step replaced, for undo; the examples that the filter shows, and the place in them.
let decisions = Object.create(null), steps = [], shown = [], place = 0, kept = true, saved = true;

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    decisions = Object.assign(Object.create(null), stored.decisions);
    at("reviewer").value = stored.reviewer ?? "";
  } catch { kept = false; }
}
function store() {
  saved = false;
  try {
    localStorage.setItem(KEY, JSON.stringify({reviewer: at("reviewer").value, decisions}));
    kept = true;
  } catch { kept = false; }
}
function result() {
  const decided = DATA.examples.filter(example => example.id in decisions);
  return JSON.stringify({
    format: "kto-lab decisions", version: 1, audit: DATA.audit, reviewer: at("reviewer").value.trim(),
    decisions: decided.map(example => ({
      example_id: example.id, decision: decisions[example.id], desirable: example.desirable,
      sampled_at_random: example.random,
    })),
  }, null, 1);
}
function searched(example) {
  const turns = typeof example.prompt === "string" ? [example.prompt] : example.prompt.map(turn => turn.content);
  return [example.id, example.why, example.completion, ...turns].join("\n").toLowerCase();
}
function filter() {
  const state = at("state-wanted").value, thumb = at("thumb-wanted").value, text = at("words").value.toLowerCase();
  shown = DATA.examples.filter(example => {
    const decision = decisions[example.id] ?? "undecided";
    return (state === "" || decision === state) && (thumb === "" || example.desirable === (thumb === "up"))
      && (text === "" || searched(example).includes(text));
  });
  place = Math.max(0, Math.min(place, shown.length - 1));
}
function element(tag, name, text) {
  const made = document.createElement(tag);
  made.className = name;
  // As text alone, never as HTML: prompts and completions are a stranger's.
  made.textContent = text;
  return made;
}
function block(text) {
  const made = element("div", "text", text);
  made.dir = "auto";
  made.tabIndex = 0;
  return made;
}
function turns(prompt) {
  if (typeof prompt === "string") return [block(prompt)];
  return prompt.map(turn => {
    const made = element("div", "turn", "");
    made.classList.add(["system", "user", "assistant", "tool"].includes(turn.role) ? turn.role : "user");
    made.append(element("div", "role", turn.role), block(turn.content));
    return made;
  });
}
function number(value) {
  return value === null ? "-" : String(Number(value.toPrecision(3)));
}
function draw(say) {
  filter();
  const example = shown[place];
  at("card").hidden = !example;
  at("none").hidden = Boolean(example);
  for (const choice of document.querySelectorAll("#actions [data-choice]")) {
    choice.disabled = !example;
    choice.setAttribute("aria-pressed", String(Boolean(example) && decisions[example.id] === choice.dataset.choice));
  }
  if (example) drawExample(example);
  const counts = {keep: 0, flip: 0, drop: 0, skip: 0};
  for (const known of DATA.examples) if (known.id in decisions) counts[decisions[known.id]] += 1;
  const done = counts.keep + counts.flip + counts.drop;
  at("done").value = done;
  at("counts").textContent = `${done} of ${DATA.examples.length} decided: ${counts.keep} kept, ${counts.flip} flipped, `
    + `${counts.drop} dropped; ${counts.skip} skipped`;
  at("undo").disabled = steps.length === 0;
  at("unkept").hidden = kept;
  if (at("copy-box").open) at("result").value = result();
  const where = example ? `Example ${place + 1} of ${shown.length}, ${words(example.desirable)}.` : "Nothing to show.";
  at("status").textContent = say ? `${say} ${where}` : where;
}
function drawExample(example) {
  const kind = example.desirable ? "up" : "down", blind = at("blind").checked;
  at("where").textContent = `${place + 1} of ${shown.length}`;
  at("thumb").textContent = `${example.desirable ? "\u25b2" : "\u25bc"} ${words(example.desirable)}`;
  at("thumb").className = `thumb ${kind}`;
  at("identity").textContent = example.id;
  at("state").textContent = example.id in decisions ? `your decision: ${decisions[example.id]}` : "";
  at("doubt").hidden = at("why").hidden = at("signals").hidden = blind;
  at("doubt").textContent = `suspicion ${number(example.suspicion)}, rank ${example.rank}`;
  at("why").textContent = example.why === "" ? "" : `Why doubted: ${example.why}`;
  at("signals").textContent = example.signals.map(([name, value]) => `${name} ${number(value)}`).join(" \u00b7 ");
  at("prompt").replaceChildren(...turns(example.prompt));
  const completion = block(example.completion);
  completion.id = "completion";
  completion.classList.add(kind);
  at("answer").replaceChildren(completion);
  at("keep-to").textContent = words(example.desirable);
  at("flip-to").textContent = words(!example.desirable);
}
function decide(choice) {
  const example = shown[place];
  if (!example) return;
  steps.push([example.id, decisions[example.id]]);
  decisions[example.id] = choice;
  store();
  filter();
  // Under a filter it may be gone from what is shown: then the next one has moved into its place.
  if (shown[place] === example) move(1, `${choice}.`);
  else draw(`${choice}.`);
}
function move(by, say) {
  const before = place;
  place = Math.max(0, Math.min(place + by, shown.length - 1));
  draw(say ?? (before === place ? (by > 0 ? "This is the last one." : "This is the first one.") : ""));
  window.scrollTo(0, 0);
}
function undo() {
  const step = steps.pop();
  if (!step) return;
  const [id, before] = step;
  if (before === undefined) delete decisions[id];
  else decisions[id] = before;
  store();
  filter();
  if (!shown.some(example => example.id === id)) {
    at("state-wanted").value = at("thumb-wanted").value = at("words").value = "";
    filter();
  }
  place = shown.findIndex(example => example.id === id);
  draw("Undone.");
}
function nextOpen(from = place + 1) {
  filter();
  const after = shown.findIndex((example, index) => index >= from && !(example.id in decisions));
  const open = after >= 0 ? after : shown.findIndex(example => !(example.id in decisions));
  if (open >= 0) place = open;
  draw(open >= 0 ? "" : "None is undecided.");
}
function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([result()], {type: "application/json"}));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = true;
}
async function copy() {
  at("result").value = result();
  try {
    await navigator.clipboard.writeText(at("result").value);
  } catch {
    at("result").select();
    document.execCommand("copy");
  }
  saved = true;
  at("status").textContent = "Copied.";
}
function help() {
  at("help").open ? at("help").close() : at("help").showModal();
}
const KEYS = {ArrowRight: () => move(1), ArrowLeft: () => move(-1), n: () => nextOpen(), u: undo, "?": help};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input:not([type=checkbox]), select, textarea")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (at("help").open && key !== "?") return;
  const action = key in CHOICES ? () => decide(CHOICES[key]) : KEYS[key];
  if (!action || (event.repeat && !key.startsWith("Arrow"))) return;
  event.preventDefault();
  action();
});
for (const choice of document.querySelectorAll("#actions [data-choice]")) {
  choice.addEventListener("click", () => decide(choice.dataset.choice));
}
const CLICKS = {undo, download, copy, "show-help": help, "close-help": help, next: () => move(1), previous: () => move(-1)};
for (const [id, action] of Object.entries(CLICKS)) at(id).addEventListener("click", () => action());
for (const id of ["state-wanted", "thumb-wanted", "words"]) {
  at(id).addEventListener("input", () => { place = 0; draw(); });
}
at("reviewer").addEventListener("input", () => { store(); draw(); });
at("blind").addEventListener("change", () => draw());
at("copy-box").addEventListener("toggle", () => draw());
// Another tab with this page has decided something.
window.addEventListener("storage", event => { if (event.key === KEY) { steps = []; load(); draw(); } });
window.addEventListener("beforeunload", event => { if (!kept && !saved) event.preventDefault(); });
load();
nextOpen(0);
