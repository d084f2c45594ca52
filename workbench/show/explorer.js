// The threshold explorer: counts per class and level in, words, curves and a file out.
// No request, no library and no inline style: it runs under a policy that allows its hash alone.
"use strict";
(() => {
const LOWEST = -128, NEVER = 128, LEVELS = 256, TIE = 1e-12;
const SVG = "http://www.w3.org/2000/svg";
const BOX = { left: 48, right: 402, top: 20, bottom: 210 };
const TICKS = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999];
const RULES = {
  f1_macro: "best balance (F1)",
  fbeta: "balance with a weight (F-beta)",
  precision_floor: "keep the yes right, find as many as possible",
  recall_floor: "find enough, be right as often as possible",
  cost: "lowest cost",
  prevalence: "say yes as often as it occurs",
};

const ratio = (above, below) => (below > 0 ? above / below : 0);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const whole = (count) => count.toLocaleString("en");
const images = (count) => `${whole(count)} image${count === 1 ? "" : "s"}`;
const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

function sumFromAbove(counts) {
  const above = new Float64Array(LEVELS + 1);
  for (let level = LEVELS - 1; level >= 0; level--) above[level] = above[level + 1] + counts[level];
  return above;
}

function figures(entry, integer) {
  const tp = entry.tp[integer - LOWEST], fp = entry.fp[integer - LOWEST];
  const fn = entry.tp[0] - tp, tn = entry.fp[0] - fp;
  return { tp, fp, fn, tn, recall: ratio(tp, tp + fn), precision: ratio(tp, tp + fp),
    f1: ratio(2 * tp, 2 * tp + fp + fn) };
}

// The same rules as workbench/decide/objectives.py; a test holds the two together.
function value(entry, integer, rule) {
  const { tp, fp, fn, recall, precision } = figures(entry, integer);
  const positives = entry.tp[0], all = positives + entry.fp[0], beta = rule.beta ** 2;
  switch (rule.name) {
    case "f1_macro": return ratio(2 * tp, positives + tp + fp);
    case "fbeta": return ratio((1 + beta) * tp, beta * positives + tp + fp);
    case "precision_floor":
      return tp + fp === 0 ? -1 : precision >= rule.floor ? recall : precision - rule.floor;
    case "recall_floor":
      return tp + fp === 0 ? -1 : recall >= rule.floor ? precision : recall - rule.floor;
    case "cost": return -ratio(rule.costFp * fp + rule.costFn * fn, all);
    default: return -ratio(Math.abs(tp + fp - positives), all);
  }
}

// Of equal thresholds the middle of the longest run, the farthest from any change.
function best(entry, integers, rule) {
  const values = integers.map((integer) => value(entry, integer, rule));
  const highest = Math.max(...values);
  let run = 0, longest = 0, end = 0;
  values.forEach((one, place) => {
    run = one >= highest - TIE ? run + 1 : 0;
    if (run > longest) [longest, end] = [run, place];
  });
  return integers[end - Math.floor(longest / 2)];
}

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, one] of Object.entries(attributes)) element.setAttribute(key, one);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

class Explorer {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.base = data.recommendation;
    this.parts = {};
    for (const part of root.querySelectorAll("[data-te]")) this.parts[part.dataset.te] = part;
    this.entries = data.classes.map((one, index) => ({
      name: this.base.classes[index].name, positives: one[0], negatives: one[1],
      tp: sumFromAbove(one[0]), fp: sumFromAbove(one[1]),
    }));
    this.start = this.base.classes.map((one) => one.integer);
    this.integers = [...this.start];
    this.locked = new Set();
    this.past = [];
    this.selected = 0;
    this.fill();
    this.listen();
    this.select(0);
  }

  logit(integer) { return (integer - 0.5 - this.base.scores.zero_point) * this.base.scores.scale; }
  probability(integer) { return sigmoid(this.logit(integer)); }

  fill() {
    const { parts, base } = this;
    parts.about.textContent = `Counted on ${images(base.scores.images)} of the ` +
      `${base.scores.split} split. A changed threshold is printed bold and purple.`;
    parts.command.textContent = this.data.command;
    for (const [name, words] of Object.entries(RULES)) parts.objective.add(new Option(words, name));
    parts.objective.value = base.objective.name;
    parts.beta.value = base.objective.beta ?? 2;
    parts.floor.value = base.objective.floor ?? 0.9;
    parts["cost-fp"].value = base.objective.cost_false_positive ?? 1;
    parts["cost-fn"].value = base.objective.cost_false_negative ?? 1;
    [parts.slider.min, parts.slider.max] = [this.data.integers[0], this.data.integers.at(-1)];
    this.rows = this.entries.map((entry, index) => this.addRow(entry, index));
    this.showKnobs();
  }

  addRow(entry, index) {
    const row = this.parts.list.appendChild(document.createElement("div"));
    row.className = "te-row";
    row.id = `te-${this.data.id}-${index}`;
    row.setAttribute("role", "option");
    for (let cell = 0; cell < 5; cell++) row.appendChild(document.createElement("span"));
    row.firstChild.textContent = row.firstChild.title = entry.name;
    row.addEventListener("click", () => this.select(index));
    return row;
  }

  listen() {
    const { parts } = this, on = (name, event, act) => parts[name].addEventListener(event, act);
    on("slider", "input", () => this.set({ [this.selected]: Number(parts.slider.value) }, true));
    on("list", "keydown", (event) => this.walk(event));
    on("find", "input", () => this.filter());
    on("undo", "click", () => this.undo());
    on("reset", "click", () => this.set({ [this.selected]: this.start[this.selected] }));
    on("reset-all", "click", () => this.set({ ...this.start }));
    on("lock", "change", () => this.lock());
    on("objective", "change", () => this.showKnobs());
    on("use", "click", () => this.set(this.ruled([this.selected])));
    on("use-all", "click", () => this.set(this.ruled(this.entries.keys())));
    on("save", "click", () => this.save());
  }

  // Moves of one slider in a row are one step of undo.
  set(changes, sliding = false) {
    const open = Object.entries(changes).map(([index, integer]) => [Number(index), integer])
      .filter(([index, integer]) => !this.locked.has(index) && this.integers[index] !== integer);
    if (!open.length) return;
    const goesOn = sliding && this.past.at(-1)?.sliding === this.selected;
    if (!goesOn) this.past.push({ sliding: sliding ? this.selected : null, integers: [...this.integers] });
    for (const [index, integer] of open) {
      this.integers[index] = integer;
      this.showRow(index);
    }
    this.show();
  }

  undo() {
    const last = this.past.pop();
    if (!last) return;
    this.integers = last.integers;
    this.entries.forEach((_, index) => this.showRow(index));
    this.show();
  }

  rule() {
    const { parts } = this;
    return { name: parts.objective.value, beta: Number(parts.beta.value),
      floor: Number(parts.floor.value), costFp: Number(parts["cost-fp"].value),
      costFn: Number(parts["cost-fn"].value) };
  }

  ruled(indices) {
    const rule = this.rule(), changes = {};
    for (const index of indices) {
      const entry = this.entries[index];
      if (entry.tp[0] > 0) changes[index] = best(entry, this.data.integers, rule);
    }
    return changes;
  }

  lock() {
    this.locked[this.parts.lock.checked ? "add" : "delete"](this.selected);
    this.show();
  }

  walk(event) {
    const shown = this.rows.filter((row) => !row.hidden), place = shown.indexOf(this.rows[this.selected]);
    const steps = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1 };
    const next = shown[steps[event.key]];
    if (event.key in steps) event.preventDefault();
    if (next) this.select(this.rows.indexOf(next));
  }

  filter() {
    const wanted = this.parts.find.value.trim().toLowerCase();
    this.rows.forEach((row, index) => {
      row.hidden = !this.entries[index].name.toLowerCase().includes(wanted);
    });
  }

  select(index) {
    this.rows[this.selected].setAttribute("aria-selected", "false");
    this.selected = index;
    this.rows[index].setAttribute("aria-selected", "true");
    this.rows[index].scrollIntoView({ block: "nearest" });
    this.parts.list.setAttribute("aria-activedescendant", this.rows[index].id);
    this.parts.name.textContent = this.entries[index].name;
    this.entries.forEach((_, one) => this.showRow(one));
    this.drawScores(this.entries[index]);
    this.drawCurve(this.entries[index]);
    this.show();
  }

  showRow(index) {
    const found = figures(this.entries[index], this.integers[index]);
    const known = this.entries[index].tp[0] > 0, cells = this.rows[index].children;
    cells[1].textContent = this.probability(this.integers[index]).toFixed(3);
    cells[2].textContent = known ? `${Math.round(100 * found.recall)} %` : "–";
    cells[3].textContent = found.tp + found.fp ? `${Math.round(100 * found.precision)} %` : "–";
    cells[4].textContent = known ? found.f1.toFixed(2) : "–";
    this.rows[index].classList.toggle("te-changed", this.integers[index] !== this.start[index]);
  }

  show() {
    const entry = this.entries[this.selected], integer = this.integers[this.selected];
    const now = figures(entry, integer), before = figures(entry, this.start[this.selected]);
    this.showSlider(integer);
    this.showWords(entry, now);
    for (const name of ["tp", "fp", "fn", "tn"]) {
      this.parts[name].textContent = whole(now[name]);
    }
    this.showFigure("recall", entry.tp[0] > 0, now, before);
    this.showFigure("precision", now.tp + now.fp > 0, now, before);
    this.showFigure("f1", entry.tp[0] > 0, now, before);
    this.moveMarks(integer, now, before);
    this.showTotal();
    const { reason, note, created_by } = this.base.classes[this.selected];
    const said = created_by === "search" ? `The search said: ${reason}` : `It was ${reason}`;
    this.parts.reason.textContent = `${said}.${note ? ` Note: ${note}.` : ""}`;
    this.parts.undo.disabled = !this.past.length;
    this.parts.reset.disabled = integer === this.start[this.selected];
  }

  showSlider(integer) {
    const { parts } = this, probability = this.probability(integer).toFixed(3);
    parts.slider.value = integer;
    parts.slider.disabled = parts.lock.checked = this.locked.has(this.selected);
    parts.slider.setAttribute("aria-valuetext", `probability ${probability}, integer ${integer}`);
    const strong = document.createElement("b");
    strong.textContent = probability;
    parts.value.replaceChildren(strong, ` · integer ${integer}`);
  }

  showWords(entry, now) {
    const there = entry.tp[0], yes = now.tp + now.fp;
    const found = there
      ? `Of ${images(there)} with this class the app finds ${whole(now.tp)} and misses ${whole(now.fn)}.`
      : "No image here has this class, so nothing can be said about finding it.";
    const right = yes
      ? `It says yes to ${images(yes)}: ${whole(now.tp)} rightly and ${whole(now.fp)} wrongly.`
      : "It never says yes.";
    this.parts.words.textContent = `${found} ${right}`;
  }

  showFigure(name, known, now, before) {
    const change = now[name] - before[name], small = document.createElement("small");
    if (known && Math.abs(change) >= 0.0005) {
      const size = Math.abs(change), sign = change > 0 ? "+" : "−";
      small.textContent = ` ${sign}${name === "f1" ? size.toFixed(3) : (100 * size).toFixed(1)}`;
    }
    const words = name === "f1" ? now.f1.toFixed(3) : percent(now[name]);
    this.parts[name].replaceChildren(known ? words : "undefined", small);
  }

  showTotal() {
    const mean = (integers) => {
      const known = this.entries.map((entry, index) => [entry, integers[index]])
        .filter(([entry]) => entry.tp[0] > 0).map(([entry, one]) => figures(entry, one).f1);
      return known.length ? (known.reduce((a, b) => a + b, 0) / known.length).toFixed(4) : "undefined";
    };
    const changed = this.integers.filter((one, index) => one !== this.start[index]).length;
    this.parts.total.textContent = `All classes: F1 macro ${mean(this.integers)}; it was ` +
      `${mean(this.start)}. ${changed} changed, ${this.locked.size} locked.`;
  }

  showKnobs() {
    for (const knob of this.root.querySelectorAll("[data-te-for]")) {
      knob.hidden = !knob.dataset.teFor.split(" ").includes(this.parts.objective.value);
    }
  }

  x(integer) { return BOX.left + ((integer - LOWEST) / LEVELS) * (BOX.right - BOX.left); }

  drawScores(entry) {
    const svg = this.parts.scores, middle = 120, width = 4;
    svg.replaceChildren();
    const clip = draw(draw(draw(svg, "defs", {}), "clipPath", { id: `te-${this.data.id}-yes` }), "rect",
      { y: 0, height: 250, width: 420 });
    const bars = [];
    for (let from = 0; from < LEVELS; from += width) {
      const add = (counts) => counts.slice(from, from + width).reduce((a, b) => a + b, 0);
      bars.push([from, add(entry.positives), add(entry.negatives)]);
    }
    const highest = Math.sqrt(Math.max(1, ...bars.flatMap(([, one, two]) => [one, two])));
    const groups = [draw(svg, "g", { class: "te-faint" }),
      draw(svg, "g", { "clip-path": `url(#te-${this.data.id}-yes)` })];
    for (const group of groups) for (const [from, one, two] of bars) {
      const x = this.x(from + LOWEST) + 0.4, w = (BOX.right - BOX.left) / (LEVELS / width) - 0.8;
      const up = 92 * Math.sqrt(one) / highest, down = 92 * Math.sqrt(two) / highest;
      draw(group, "rect", { x, y: middle - up, width: w, height: up, class: "te-with" });
      draw(group, "rect", { x, y: middle, width: w, height: down, class: "te-without" });
    }
    draw(svg, "text", { x: BOX.left, y: 24, class: "te-with" }, "with the class ↑");
    draw(svg, "text", { x: BOX.right, y: 208, "text-anchor": "end", class: "te-without" },
      "without the class ↓");
    draw(svg, "path", { d: `M${BOX.left} ${middle}H${BOX.right}`, class: "te-axis" });
    this.drawProbabilities(svg);
    this.cut = { clip, line: draw(svg, "path", { class: "te-cut" }),
      word: draw(svg, "text", { y: 40 }, "yes →") };
  }

  drawProbabilities(svg) {
    const { scale, zero_point } = this.base.scores;
    for (const tick of TICKS) {
      const x = this.x(Math.log(tick / (1 - tick)) / scale + zero_point + 0.5);
      if (x < BOX.left || x > BOX.right) continue;
      draw(svg, "path", { d: `M${x} 214V219`, class: "te-axis" });
      draw(svg, "text", { x, y: 232, "text-anchor": "middle" }, tick);
    }
    draw(svg, "text", { x: BOX.right, y: 247, "text-anchor": "end" }, "score, as probability →");
  }

  drawCurve(entry) {
    const svg = this.parts.curve, at = (recall, precision) => [
      BOX.left + recall * (BOX.right - BOX.left), BOX.bottom - precision * (BOX.bottom - BOX.top)];
    this.place = at;
    svg.replaceChildren();
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const [x, y] = at(share, share);
      draw(svg, "path", { d: `M${BOX.left} ${y}H${BOX.right}M${x} ${BOX.top}V${BOX.bottom}`, class: "te-axis",
        "stroke-opacity": 0.4 });
      draw(svg, "text", { x: BOX.left - 6, y: y + 4, "text-anchor": "end" }, `${100 * share} %`);
      if (share) draw(svg, "text", { x, y: 229, "text-anchor": "middle" }, `${100 * share} %`);
    }
    draw(svg, "text", { x: BOX.right, y: 246, "text-anchor": "end" }, "found (recall) →");
    draw(svg, "text", { x: BOX.left, y: BOX.top - 6 }, "↑ right (precision)");
    if (!entry.tp[0]) {
      this.dots = null;
      draw(svg, "text", { x: 226, y: 116, "text-anchor": "middle" }, "no image here has this class");
      return;
    }
    draw(svg, "path", { d: this.curvePath(entry, at), class: "te-line" });
    this.dots = { ghost: draw(svg, "circle", { r: 7, class: "te-ghost" }),
      dot: draw(svg, "circle", { r: 7, class: "te-dot" }) };
  }

  curvePath(entry, at) {
    let path = "", last = 0;
    for (let integer = NEVER; integer >= LOWEST; integer--) {
      const { tp, fp, recall, precision } = figures(entry, integer);
      if (tp + fp === last) continue;
      last = tp + fp;
      const [x, y] = at(recall, precision);
      path += path ? `V${y.toFixed(1)}H${x.toFixed(1)}` : `M${BOX.left} ${y.toFixed(1)}H${x.toFixed(1)}`;
    }
    return path;
  }

  moveMarks(integer, now, before) {
    const x = this.x(integer);
    this.cut.clip.setAttribute("x", x);
    this.cut.line.setAttribute("d", `M${x} 30V214`);
    this.cut.word.setAttribute("x", Math.min(x + 5, BOX.right - 34));
    for (const [name, at] of [["dot", now], ["ghost", before]]) {
      if (!this.dots) break;
      const [cx, cy] = this.place(at.recall, at.precision);
      this.dots[name].setAttribute("cx", cx);
      this.dots[name].setAttribute("cy", cy);
    }
    const words = `${percent(now.recall)} found, ${percent(now.precision)} of the yes right`;
    this.parts.curve.setAttribute("aria-label", `Precision against recall. Here: ${words}.`);
    this.parts.scores.setAttribute("aria-label", `Histogram of scores with the threshold at ` +
      `probability ${this.probability(integer).toFixed(3)}: ${words}.`);
  }

  // The file that the search wrote, with the changes and who made them.
  recommendation(who, why) {
    const file = structuredClone(this.base), changes = {};
    file.classes.forEach((entry, index) => {
      const integer = this.integers[index];
      if (integer === entry.integer) return;
      changes[entry.name] = [entry.integer, integer];
      Object.assign(entry, { integer, logit: this.logit(integer), adopted: true,
        probability: this.probability(integer), created_by: "person",
        reason: why ? `set by ${who}: ${why}` : `set by ${who}` });
    });
    if (Object.keys(changes).length) {
      file.created_by = "person";
      file.edits.push({ who, when: new Date().toISOString(), why, changes });
    }
    return file;
  }

  save() {
    const who = this.parts.who.value.trim(), why = this.parts.why.value.trim();
    if (!who) {
      this.parts.saved.textContent = "Please give your name first: it is kept with the thresholds.";
      this.parts.who.focus();
      return;
    }
    const text = JSON.stringify(this.recommendation(who, why), null, 2) + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "threshold_recommendation.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    this.parts.saved.textContent = "Downloaded. Nothing changes until the command below is run.";
  }
}

for (const root of document.querySelectorAll(".threshold-explorer:not(.te-unknown, [data-te-started])")) {
  root.dataset.teStarted = "";
  root.explorer = new Explorer(root, JSON.parse(root.nextElementSibling.textContent));
}
})();
