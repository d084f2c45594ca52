// The threshold explorer: counts per class and INT8 level (or, for a single label, a curve over the
// confidence) and photos next to the thresholds in; words, curves and an edited
// threshold_recommendation.json out. Runs in both hosts of panel.py: no request, no library, no inline
// style, no state outside its element; every name is text.

const LOWEST = -128, NEVER = 128, LEVELS = 256, BAR_LEVELS = 4, TIE = 1e-12;
const SVG = "http://www.w3.org/2000/svg";
const FILE = "threshold_recommendation.json";
const TICKS = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999];
const SHARES = [0, 0.25, 0.5, 0.75, 1];
const RULES = {
  f1_macro: "best balance (F1)",
  fbeta: "balance with a weight (F-beta)",
  precision_floor: "keep the yes right, find as many as possible",
  recall_floor: "find enough, be right as often as possible",
  cost: "lowest cost",
  prevalence: "say yes as often as it occurs",
};

const ORDERS = {
  listed: ["as listed", () => 0],
  name: ["by name", (a, b) => a.name.localeCompare(b.name)],
  f1: ["lowest F1 first", (a, b) => a.f1 - b.f1],
  recall: ["least found first", (a, b) => a.recall - b.recall],
  precision: ["least right first", (a, b) => a.precision - b.precision],
  changed: ["changed first", (a, b) => b.changed - a.changed],
};

const PHOTOS = `<div class="te-photos" data-te="photos"><h4 data-te="turned"></h4><div data-te="strips"></div></div>`;
const SLIDER = `<label class="te-slider"><span>Threshold</span>
  <input type="range" step="1" data-te="slider"><output data-te="value"></output></label>`;
const KEEP = `<fieldset><legend>Keep what you chose</legend>
  <label>Your name <input type="text" data-te="who" autocomplete="name"></label>
  <label class="te-wide">Why <input type="text" data-te="why" autocomplete="off"></label>
  <p data-te="last"></p>
  <button type="button" data-te="save"></button>
  <p data-te="saved" aria-live="polite"></p>
  <p data-te="apply">Then run <code data-te="command"></code></p>
</fieldset>`;
const MULTILABEL = `<p class="te-lead">For every class the app compares an image's score with a threshold and says
  <b>yes</b> from there on. A lower threshold finds more images and is wrong more often. Choose a class, move its
  slider, and read what would happen. <span data-te="about"></span></p>
<div class="te-layout">
  <div class="te-side">
    <div class="te-find"><label>Find a class <input type="search" data-te="find" autocomplete="off"></label>
      <label>Sort <select data-te="sort"></select></label></div>
    <div class="te-row te-head" aria-hidden="true">
      <span>class</span><span>threshold</span><span>found</span><span>right</span><span>F1</span></div>
    <div class="te-list" role="listbox" tabindex="0" aria-label="Classes" data-te="list"></div>
    <p class="te-total" data-te="total"></p>
    <p class="te-caution" data-te="caution" hidden></p>
  </div>
  <div class="te-main">
    <h3 data-te="name"></h3>
    <p class="te-words" aria-live="polite" data-te="words"></p>
    ${SLIDER}
    ${PHOTOS}
    <div class="te-figures">
      <div>found <small>recall</small><b data-te="recall"></b><small data-te="recall-ends"></small></div>
      <div>right <small>precision</small><b data-te="precision"></b><small data-te="precision-ends"></small></div>
      <div>both <small>F1</small><b data-te="f1"></b></div>
    </div>
    <div class="te-charts">
      <figure><figcaption>Scores, with and without the class; click to choose</figcaption>
        <svg viewBox="0 0 420 250" role="img" aria-label="" data-te="scores"></svg></figure>
      <figure><figcaption>Every threshold: ● this one, ○ the start, □ 0.5, ◇ best by the rule below; click to
        choose</figcaption>
        <svg viewBox="0 0 420 250" role="img" aria-label="" data-te="curve"></svg></figure>
    </div>
    <table class="te-counts"><caption>Images counted at this threshold</caption>
      <thead><tr><td></td><th scope="col">app says yes</th><th scope="col">app says no</th></tr></thead>
      <tbody>
        <tr><th scope="row">class is there</th><td data-te="tp"></td><td data-te="fn"></td></tr>
        <tr><th scope="row">class is not there</th><td data-te="fp"></td><td data-te="tn"></td></tr>
      </tbody></table>
    <div class="te-tools">
      <button type="button" data-te="undo">Undo</button>
      <button type="button" data-te="reset">Back to the start</button>
      <button type="button" data-te="reset-all">All back to the start</button>
      <label><input type="checkbox" data-te="lock"> Lock this class
        <small>then neither slider, rule nor “all back” moves it</small></label>
    </div>
    <fieldset class="te-yours"><legend>On 1 000 photos of yours</legend>
      <label>with this class <input type="number" min="0" max="100" step="any" data-te="share"> %</label>
      <label>a wrong yes costs <input type="number" min="0" step="any" data-te="cost-fp"></label>
      <label>a missed one costs <input type="number" min="0" step="any" data-te="cost-fn"></label>
      <p data-te="yours" aria-live="polite"></p>
    </fieldset>
    <p class="te-reason" data-te="reason"></p>
  </div>
</div>
<fieldset><legend>Set thresholds by a rule</legend>
  <label>Rule <select data-te="objective"></select></label>
  <label data-te-for="fbeta">finding counts × <input type="number" min="0.1" max="10" step="0.1" data-te="beta"></label>
  <label data-te-for="precision_floor recall_floor">at least
    <input type="number" min="0" max="1" step="0.01" data-te="floor"></label>
  <span data-te-for="cost">by the costs above, at your share of each class</span>
  <button type="button" data-te="use">For this class</button>
  <button type="button" data-te="use-all">For all that are not locked</button>
  <p class="te-caution" role="alert" data-te="refused"></p>
</fieldset>`;
const SINGLE_LABEL = `<p class="te-lead">The app names the class it believes most, or says <b>unknown</b> when it is
  less sure than the threshold. A higher threshold gives fewer answers, and more of them are right.
  <span data-te="about"></span></p>
<p class="te-words" aria-live="polite" data-te="words"></p>
${SLIDER}
${PHOTOS}
<div class="te-figures">
  <div>answered <small>coverage</small><b data-te="coverage"></b></div>
  <div>right <small>accuracy of the answers</small><b data-te="accepted_accuracy"></b></div>
  <div>worth an image <small>right less penalty</small><b data-te="utility"></b></div>
</div>
<figure><figcaption>Answered (blue) and right (green, dashed) for every threshold; click to
  choose</figcaption>
  <svg viewBox="0 0 640 260" role="img" aria-label="" data-te="curve"></svg></figure>
<p data-te="wanted"></p>
<div class="te-tools"><button type="button" data-te="reset">Back to the start</button></div>
<p class="te-reason" data-te="reason"></p>`;

const ratio = (above, below) => (below > 0 ? above / below : 0);
const percent = (share) => (share === null ? "undefined" : `${(100 * share).toFixed(1)} %`);
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

// Shares of the photos without the class that get a wrong yes, and of those with it that get none.
function rates(entry, integer) {
  const { fp, fn, tp, tn } = figures(entry, integer);
  return { fpr: ratio(fp, fp + tn), missed: ratio(fn, fn + tp) };
}

// Where a pointer is, in the units of a drawing.
function placeOf(event, svg) {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [place.x, place.y];
}

// The same rules as `Objective` in workbench/decide; a test holds the two together.
// Thresholds at which a class may claim a floor: where the number of its yes doubles.
function looks({ tp, fp }, { name }) {
  const bits = (place) => 32 - Math.clz32(tp[place] + fp[place]);
  return (place) => (name === "recall_floor" ? bits(place) > 0 : bits(place) > bits(place + 1));
}

// What is to be kept of a floor, and of how many; photos of one group count as fewer.
function judged({ tp, fp, worth }, place, { name }) {
  const trials = name === "precision_floor" ? tp[place] + fp[place] : tp[0];
  return [worth(name) * tp[place], worth(name) * trials];
}

// Both ends of Wilson's interval of a share.
function wilson([hits, trials], z) {
  if (!(trials > 0)) return [0, 1];
  const share = hits / trials, square = z ** 2 / trials;
  const half = z * Math.sqrt(share * (1 - share) / trials + square / (4 * trials));
  const [low, high] = [-half, half].map((side) => (share + square / 2 + side) / (1 + square));
  return [share <= 0 ? 0 : Math.max(0, low), share >= 1 ? 1 : Math.min(1, high)];
}

const lowerEnd = (entry, place, rule) => wilson(judged(entry, place, rule), rule.z)[0];

function claims(entry, rule) {
  const look = looks(entry, rule);
  return entry.tp.some((_, place) => look(place) && lowerEnd(entry, place, rule) >= rule.floor);
}

/* Value what is wanted where a class claims the floor and its lower end holds it. */
function aboveFloor(entry, place, rule, wanted) {
  const least = lowerEnd(entry, place, rule);
  if (rule.claimed && least >= rule.floor) return wanted;
  return looks(entry, rule)(place) ? least - rule.floor : -1;
}

// How many deviations above the floor a class must lie: the more, the fewer classes claim it.
function sureness(entries, rule, needed) {
  const above = (entry) => Math.max(...entry.tp.map((_, place) => {
    const [hits, trials] = judged(entry, place, rule);
    const deviation = Math.sqrt(rule.floor * (1 - rule.floor) * trials);
    return looks(entry, rule)(place) ? ratio(hits - rule.floor * trials, deviation) : -Infinity;
  }));
  const surest = entries.map(above).sort((a, b) => b - a);
  const together = surest.map((one, place) => (one >= needed[place] ? place : 0));
  return needed[Math.max(...together)];
}

function value(entry, integer, rule) {
  const { tp, fp, fn, recall, precision } = figures(entry, integer);
  const positives = entry.tp[0], all = positives + entry.fp[0], beta = rule.beta ** 2;
  switch (rule.name) {
    case "f1_macro": return ratio(2 * tp, positives + tp + fp);
    case "fbeta": return ratio((1 + beta) * tp, beta * positives + tp + fp);
    case "precision_floor": return aboveFloor(entry, integer - LOWEST, rule, recall);
    case "recall_floor": return aboveFloor(entry, integer - LOWEST, rule, precision);
    case "cost": {
      const share = entry.share ?? ratio(positives, all), { fpr, missed } = rates(entry, integer);
      return -(rule.costFp * (1 - share) * fpr + rule.costFn * share * missed);
    }
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

// Axes from 0 to 1 both ways; returns where a point lies.
function drawAxes(svg, right, bottom, across, label) {
  const left = 52, top = 20, at = (x, y) => [left + x * (right - left), bottom - y * (bottom - top)];
  svg.replaceChildren();
  for (const share of SHARES) {
    const [x, y] = at(share, share);
    draw(svg, "path", { d: `M${left} ${y}H${right}M${x} ${top}V${bottom}`, class: "te-grid" });
    draw(svg, "text", { x: left - 6, y: y + 4, "text-anchor": "end" }, `${100 * share} %`);
    draw(svg, "text", { x, y: bottom + 18, "text-anchor": "middle" }, across(share));
  }
  draw(svg, "text", { x: right, y: bottom + 36, "text-anchor": "end" }, label);
  return at;
}

// Keys are rows and never names: prototypes hold none of them.
function photosOf(photos) {
  return photos && { classes: photos.classes.map((entries) => [...entries]),
    pictures: { ...photos.pictures }, names: { ...photos.names } };
}

class Explorer {
  constructor(model, el, markup) {
    this.model = model;
    this.data = model.get("data");
    this.base = this.data.recommendation;
    this.live = model.get("live");
    el.innerHTML = `<section class="threshold-explorer" aria-label="Threshold explorer">${markup}${KEEP}</section>`;
    this.root = el.firstElementChild;
    for (const control of this.root.querySelectorAll("input, select, button, [tabindex]")) {
      control.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys for itself
    }
    this.parts = {};
    for (const part of this.root.querySelectorAll("[data-te]")) this.parts[part.dataset.te] = part;
    const { scores } = this.base;
    this.parts.about.textContent = `Counted on ${images(scores.images)} of the ${scores.split} split.`;
    this.parts.command.textContent = this.data.command;
    this.parts.apply.hidden = this.live;
    this.parts.save.textContent = this.live ? "Save for this run" : `Download ${FILE}`;
    this.on("save", "click", () => this.save());
    this.parts.last.textContent = this.lastChoice();
    this.photos = photosOf(this.data.photos);
  }

  // Who changed these thresholds before, and what.
  lastChoice() {
    const last = this.base.edits.at(-1);
    if (!last) return "Nobody has changed the searched thresholds of this run so far.";
    const moves = Object.entries(last.changes).map(([name, [from, to]]) =>
      `${name} ${this.shown(from)} → ${this.shown(to)}`);
    const more = moves.length > 5 ? ` and ${moves.length - 5} more` : "";
    return `Last saved by ${last.who} on ${last.when.slice(0, 10)}: ${moves.slice(0, 5).join(", ")}${more}` +
      `${last.why ? ` (${last.why})` : ""}. What you change now is counted from there.`;
  }

  // Show the photos whose answer turns between two thresholds, or those next to an unmoved one.
  showPhotos(index, start, now, turned) {
    const { photos, strips, turned: head } = this.parts, known = this.photos;
    photos.hidden = !known;
    if (!known) return;
    const there = known.classes[index].filter(([row]) => known.pictures[row]);
    const moved = start !== now;
    const shown = moved ? there.filter(([, score]) => score >= start !== score >= now) : there;
    shown.sort((a, b) => Math.abs(a[1] - now) - Math.abs(b[1] - now));
    const words = this.words(now < start, moved);
    const groups = words.map(([title, is]) => [title, shown.filter(([, score, label]) => is(score >= now, label))]);
    head.textContent = !moved ? "The photos next to this threshold"
      : turned ? `${images(turned)} flip${turned === 1 ? "s" : ""}` + (shown.length < turned ? `, ${shown.length} shown` : "")
      : "No image flips";
    strips.replaceChildren(...groups.filter(([, entries]) => entries.length).map(([title, entries]) =>
      this.strip(title, entries.slice(0, 24))));
    if (moved && this.live && shown.length < Math.min(turned, 24)) this.ask([index, start, now]);
  }

  strip(title, entries) {
    const part = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = `${title}: ${entries.length}`;
    part.append(caption, ...entries.map(([row]) => {
      const image = new Image();
      image.src = this.photos.pictures[row];
      image.alt = image.title = this.photos.names[row];
      return image;
    }));
    return part;
  }

  // The kernel has every photo; it is asked once the slider rests.
  ask(turned) {
    clearTimeout(this.asking);
    const key = turned.join(" ");
    if (this.asked === key) return;
    this.asking = setTimeout(() => {
      this.asked = key;
      this.model.send({ turned });
    }, 200);
  }

  take({ index, entries, pictures, names }) {
    Object.assign(this.photos.pictures, pictures);
    Object.assign(this.photos.names, names);
    const known = new Set(this.photos.classes[index].map(([row]) => row));
    this.photos.classes[index].push(...entries.filter(([row]) => !known.has(row)));
    this.show(this.row);
  }

  // Let a click into a drawing choose; `choose` gets the place in its units.
  onDrawing(name, choose) {
    const svg = this.parts[name];
    svg.classList.add("te-click");
    svg.addEventListener("click", (event) => choose(...placeOf(event, svg)));
  }

  on(name, event, act) { this.parts[name].addEventListener(event, act); }

  say(text) { this.parts.saved.textContent = text; }

  showSlider(place, probability, rest) {
    const { slider, value } = this.parts, strong = document.createElement("b");
    strong.textContent = probability.toFixed(3);
    slider.value = place;
    value.replaceChildren(strong, rest);
    slider.setAttribute("aria-valuetext", value.textContent);
  }

  // The file that the search wrote, with the changes and who made them.
  recommendation(who, why) {
    const file = structuredClone(this.base), reason = why ? `set by ${who}: ${why}` : `set by ${who}`;
    const changes = this.change(file, reason);
    if (!Object.keys(changes).length) return null;
    file.created_by = "person";
    file.edits.push({ who, when: new Date().toISOString(), why, changes });
    return file;
  }

  save() {
    const who = this.parts.who.value.trim(), why = this.parts.why.value.trim();
    if (!who) {
      this.say("Please give your name first: it is kept with the threshold.");
      this.parts.who.focus();
      return;
    }
    const file = this.recommendation(who, why);
    if (!file) {
      this.say("No threshold was moved: there is nothing to save.");
      return;
    }
    if (this.live) {
      this.say("Sent to the notebook. If no answer follows, its kernel is busy or gone: run the cell again.");
      this.model.send({ recommendation: file });
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 2) + "\n"], { type: "application/json" }));
    link.download = FILE;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    this.say("Downloaded. Nothing changes until the command below is run.");
  }
}

class ClassThresholds extends Explorer {
  constructor(model, el) {
    super(model, el, MULTILABEL);
    const { data, base } = this;
    this.entries = data.classes.map(([positives, negatives], index) => ({ positives, negatives,
      name: base.classes[index].name, tp: sumFromAbove(positives), fp: sumFromAbove(negatives),
      worth: (floor) => data.worth[floor][index] }));
    this.start = base.classes.map((one) => one.integer);
    this.integers = [...this.start];
    this.locked = new Set();
    this.entries.forEach((entry) => { entry.share = null; }); // as on these photos, until it is typed
    this.past = [];
    this.selected = 0;
    this.fill();
    this.listen();
    this.select(0);
  }

  // The first integer whose probability is one half or more.
  atHalf() { return this.data.integers.find((one) => this.logit(one) >= 0) ?? null; }
  logit(integer) { return (integer - 0.5 - this.base.scores.zero_point) * this.base.scores.scale; }
  probability(integer) { return sigmoid(this.logit(integer)); }
  shown(integer) { return this.probability(integer).toFixed(3); }
  words(lower, moved) {
    return moved ? (lower
      ? [["Now found", (yes, there) => there], ["Now wrongly said", (yes, there) => !there]]
      : [["Now missed", (yes, there) => there], ["Now rightly left out", (yes, there) => !there]])
      : [["Just above, yes, and rightly", (yes, there) => yes && there],
        ["Just above, yes, but wrongly", (yes, there) => yes && !there],
        ["Just below, no, but missed", (yes, there) => !yes && there],
        ["Just below, no, and rightly", (yes, there) => !yes && !there]];
  }

  fill() {
    const { parts, base } = this, { objective } = base;
    parts.about.textContent += " A changed threshold is printed bold and purple.";
    for (const [name, words] of Object.entries(RULES)) parts.objective.add(new Option(words, name));
    for (const [name, [words]] of Object.entries(ORDERS)) parts.sort.add(new Option(words, name));
    parts.objective.value = objective.name;
    parts.beta.value = objective.beta ?? 2;
    parts.floor.value = objective.floor ?? 0.9;
    parts["cost-fp"].value = objective.cost_false_positive ?? 1;
    parts["cost-fn"].value = objective.cost_false_negative ?? 1;
    [parts.slider.min, parts.slider.max] = [this.data.integers[0], this.data.integers.at(-1)];
    const prefix = `te-${Math.random().toString(36).slice(2)}`; // two explorers may share a page
    this.rows = this.entries.map((entry, index) => this.addRow(entry, index, prefix));
    this.entries.forEach((_, index) => this.showRow(index));
    this.showKnobs();
  }

  addRow(entry, index, prefix) {
    const row = this.parts.list.appendChild(document.createElement("div"));
    row.className = "te-row";
    row.id = `${prefix}-${index}`;
    row.setAttribute("role", "option");
    for (let cell = 0; cell < 5; cell++) row.appendChild(document.createElement("span"));
    row.firstChild.textContent = row.firstChild.title = entry.name;
    row.addEventListener("click", () => this.select(index));
    return row;
  }

  listen() {
    const { parts } = this;
    this.on("slider", "input", () => this.set({ [this.selected]: Number(parts.slider.value) }, true));
    this.on("list", "keydown", (event) => this.walk(event));
    this.on("find", "input", () => this.filter());
    this.on("sort", "change", () => this.sort());
    this.on("share", "input", () => this.setShare());
    for (const knob of ["cost-fp", "cost-fn", "beta", "floor"]) this.on(knob, "input", () => this.refresh());
    this.onDrawing("scores", (x) => this.choose((one) => Math.abs(this.x(one) - x)));
    this.onDrawing("curve", (x, y) => this.choose((one) => {
      const { recall, precision } = figures(this.entries[this.selected], one), [px, py] = this.at(recall, precision);
      return Math.hypot(px - x, py - y);
    }));
    this.on("undo", "click", () => this.undo());
    this.on("reset", "click", () => this.set({ [this.selected]: this.start[this.selected] }));
    this.on("reset-all", "click", () => this.set({ ...this.start }));
    this.on("lock", "change", () => this.lock());
    this.on("objective", "change", () => { this.showKnobs(); this.refresh(); });
    this.on("use", "click", () => this.set(this.ruled([this.selected])));
    this.on("use-all", "click", () => this.set(this.ruled(this.entries.keys())));
  }

  // Take the threshold that is nearest by a distance.
  choose(distance) {
    const far = this.data.integers.map(distance);
    this.set({ [this.selected]: this.data.integers[far.indexOf(Math.min(...far))] });
  }

  // The number in a field; what is none, or beyond its bounds, is refused in words.
  number(name) {
    const input = this.parts[name], found = input.valueAsNumber, { min, max } = input;
    const label = input.closest("label").textContent.trim().replace(/\s*%$/, "");
    const above = min === "" || found >= Number(min), below = max === "" || found <= Number(max);
    const right = Number.isFinite(found) && above && below;
    input.setAttribute("aria-invalid", String(!right));
    if (!right) this.wrong = `“${label}” is ${input.value || "no number"}; it must be ` +
      (max === "" ? `${min} or more.` : `from ${min} to ${max}.`);
    return found;
  }

  // What the rule asks for; null, with the reason said, where a number is refused.
  rule() {
    this.wrong = "";
    const rule = { name: this.parts.objective.value, beta: this.number("beta"), floor: this.number("floor"),
      costFp: this.number("cost-fp"), costFn: this.number("cost-fn") };
    this.parts.refused.textContent = this.wrong;
    if (this.wrong) return null;
    return rule;
  }

  setShare() {
    this.wrong = "";
    const typed = this.parts.share.value !== "", share = typed ? this.number("share") / 100 : null;
    this.parts.refused.textContent = this.wrong;
    if (this.wrong) this.parts.yours.textContent = this.wrong;
    else {
      this.entries[this.selected].share = share;
      this.refresh();
    }
  }

  // A number that the drawings depend on has changed.
  refresh() {
    this.best = this.bestOf(this.entries[this.selected]);
    this.show();
  }

  bestOf(entry) {
    const rule = this.rule();
    return rule && entry.tp[0] ? this.optimum(entry, rule) : null;
  }

  // What a rule sets; a floor asks how many classes claim it, so all of them are looked at.
  optimum(entry, rule) {
    if (!rule.name.endsWith("floor")) return best(entry, this.data.integers, rule);
    rule.z ??= sureness(this.entries, rule, this.data.needed);
    return best(entry, this.data.integers, { ...rule, claimed: claims(entry, rule) });
  }

  sort() {
    const order = ORDERS[this.parts.sort.value][1], known = this.entries.map((entry, index) => ({ index,
      name: entry.name, changed: Number(this.integers[index] !== this.start[index]),
      empty: entry.tp[0] ? 0 : 1, ...figures(entry, this.integers[index]) }));
    known.sort((a, b) => (this.parts.sort.value === "listed" ? 0 : a.empty - b.empty) || order(a, b));
    this.parts.list.replaceChildren(...known.map(({ index }) => this.rows[index]));
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

  // What the chosen rule would set; a class without images stays as it is.
  ruled(indices) {
    const changes = {}, rule = this.rule();
    if (!rule) return changes;
    for (const index of indices) {
      if (this.entries[index].tp[0] > 0) changes[index] = this.optimum(this.entries[index], rule);
    }
    return changes;
  }

  lock() {
    this.locked[this.parts.lock.checked ? "add" : "delete"](this.selected);
    this.show();
  }

  walk(event) {
    const shown = [...this.parts.list.children].filter((row) => !row.hidden), place = shown.indexOf(this.rows[this.selected]);
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
    const { list, name } = this.parts, row = this.rows[index];
    this.rows[this.selected].setAttribute("aria-selected", "false");
    this.selected = index;
    row.setAttribute("aria-selected", "true");
    if (row.offsetTop < list.scrollTop) list.scrollTop = row.offsetTop;
    const below = row.offsetTop + row.offsetHeight - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
    list.setAttribute("aria-activedescendant", row.id);
    name.textContent = this.entries[index].name;
    const { tp, fp, share } = this.entries[index];
    this.parts.share.placeholder = (100 * ratio(tp[0], tp[0] + fp[0])).toFixed(1);
    this.parts.share.value = share === null ? "" : 100 * share;
    this.best = this.bestOf(this.entries[index]);
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
    const { parts } = this, entry = this.entries[this.selected], integer = this.integers[this.selected];
    const now = figures(entry, integer), before = figures(entry, this.start[this.selected]);
    this.showSlider(integer, this.probability(integer), ` · integer ${integer}`);
    parts.slider.disabled = parts.lock.checked = this.locked.has(this.selected);
    this.showWords(entry, now);
    for (const name of ["tp", "fp", "fn", "tn"]) parts[name].textContent = whole(now[name]);
    this.showFigure("recall", entry.tp[0] > 0, now, before);
    this.showFigure("precision", now.tp + now.fp > 0, now, before);
    this.showFigure("f1", entry.tp[0] > 0, now, before);
    for (const name of ["recall", "precision"]) this.showEnds(entry, integer, name);
    this.moveMarks(integer, now, before);
    this.showPhotos(this.selected, this.start[this.selected], integer,
      Math.abs(now.tp + now.fp - before.tp - before.fp));
    this.showYours(entry, integer);
    this.showTotal();
    const { reason, note, created_by } = this.base.classes[this.selected];
    const said = created_by === "search" ? `The search said: ${reason}` : `It was ${reason}`;
    parts.reason.textContent = `${said}.${note ? ` Note: ${note}.` : ""}`;
    parts.undo.disabled = !this.past.length;
    parts.reset.disabled = integer === this.start[this.selected];
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

  showYours(entry, integer) {
    const share = entry.share ?? ratio(entry.tp[0], entry.tp[0] + entry.fp[0]), rule = this.rule();
    if (!rule || !entry.tp[0]) {
      this.parts.yours.textContent = this.wrong || "Nothing is known of a class that no image here has.";
      return;
    }
    const there = 1000 * share, round = (count) => whole(Math.round(count));
    const rest = (count) => whole(Math.round(there) - Math.round(count)); // so that the words add up
    const found = (one) => {
      const { fpr, missed } = rates(entry, one), wrong = (1000 - there) * fpr, lost = there * missed;
      return { wrong, lost, cost: rule.costFp * wrong + rule.costFn * lost };
    };
    const now = found(integer), cheapest = best(entry, this.data.integers, { ...rule, name: "cost" });
    this.parts.yours.textContent = `${round(there)} show it: ${rest(now.lost)} are found and ` +
      `${round(now.lost)} missed. ${round(1000 - there)} do not: ${round(now.wrong)} get a wrong yes. That costs ` +
      `${now.cost.toFixed(1)}; ${found(this.start[this.selected]).cost.toFixed(1)} at the start; at least ` +
      `${found(cheapest).cost.toFixed(1)}, at ${this.shown(cheapest)}.`;
  }

  // What other photos may give at a threshold that was fixed before; photos of one group count as fewer.
  showEnds(entry, integer, name) {
    const found = judged(entry, integer - LOWEST, { name: `${name}_floor` }), [low, high] = wilson(found, 1.959964);
    this.parts[`${name}-ends`].textContent = found[1] > 0 ? `95 %: ${percent(low)} to ${percent(high)}` : "";
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
      return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
    };
    const [now, start] = [mean(this.integers), mean(this.start)], inWords = (one) => one?.toFixed(4) ?? "undefined";
    const changed = this.integers.filter((one, index) => one !== this.start[index]).length;
    this.parts.total.textContent = `All classes: F1 macro ${inWords(now)}; it was ` +
      `${inWords(start)}. ${changed} changed, ${this.locked.size} locked.`;
    const { optimism } = this.base.expected, luck = optimism === null ? ""
      : ` Of what the search reached here, ${optimism.toFixed(3)} was luck.`;
    this.parts.caution.hidden = !(now > start + TIE);
    this.parts.caution.textContent = "Higher on the very photos that it was tuned on: others will give less. " +
      `The test split (09) tells, once.${luck}`;
  }

  showKnobs() {
    for (const knob of this.root.querySelectorAll("[data-te-for]")) {
      knob.hidden = !knob.dataset.teFor.split(" ").includes(this.parts.objective.value);
    }
  }

  x(integer) { return 48 + ((integer - LOWEST) / LEVELS) * 354; }

  drawScores(entry) {
    const svg = this.parts.scores, middle = 120, bars = [];
    svg.replaceChildren();
    for (let from = 0; from < LEVELS; from += BAR_LEVELS) {
      const add = (counts) => counts.slice(from, from + BAR_LEVELS).reduce((a, b) => a + b, 0);
      bars.push([from + LOWEST, Math.sqrt(add(entry.positives)), Math.sqrt(add(entry.negatives))]);
    }
    const highest = Math.max(1, ...bars.flatMap(([, one, two]) => [one, two]));
    const width = this.x(BAR_LEVELS) - this.x(0) - 0.8;
    this.bars = bars.map(([integer, one, two]) => {
      const group = draw(svg, "g", {}), x = this.x(integer) + 0.4, up = (92 * one) / highest;
      draw(group, "rect", { x, y: middle - up, width, height: up, class: "te-with" });
      draw(group, "rect", { x, y: middle, width, height: (92 * two) / highest, class: "te-without" });
      return [integer, group];
    });
    draw(svg, "text", { x: 48, y: 24, class: "te-with" }, "with the class ↑");
    draw(svg, "text", { x: 402, y: 208, "text-anchor": "end", class: "te-without" }, "without the class ↓");
    draw(svg, "path", { d: `M48 ${middle}H402`, class: "te-axis" });
    const { scale, zero_point } = this.base.scores;
    for (const tick of TICKS) {
      const x = this.x(Math.log(tick / (1 - tick)) / scale + zero_point + 0.5);
      if (x < 48 || x > 402) continue;
      draw(svg, "path", { d: `M${x} 214V219`, class: "te-axis" });
      draw(svg, "text", { x, y: 232, "text-anchor": "middle" }, tick);
    }
    draw(svg, "text", { x: 402, y: 247, "text-anchor": "end" }, "score, as probability →");
    this.marks = ["te-half", "te-best"].map((name) => draw(svg, "path", { class: name }));
    this.cut = draw(svg, "path", { class: "te-cut" });
    this.yes = draw(svg, "text", { y: 40 }, "yes →");
  }

  drawCurve(entry) {
    const svg = this.parts.curve;
    this.at = drawAxes(svg, 402, 210, (share) => (share ? `${100 * share} %` : ""), "found (recall) →");
    draw(svg, "text", { x: 52, y: 14 }, "↑ right (precision)");
    this.dots = this.signs = null;
    if (!entry.tp[0]) {
      draw(svg, "text", { x: 226, y: 116, "text-anchor": "middle" }, "no image here has this class");
      return;
    }
    let path = "", last = 0;
    for (let integer = NEVER; integer >= LOWEST; integer--) {
      const { tp, fp, recall, precision } = figures(entry, integer);
      if (tp + fp === last) continue;
      last = tp + fp;
      const [x, y] = this.at(recall, precision).map((one) => one.toFixed(1));
      path += path ? `V${y}H${x}` : `M52 ${y}H${x}`;
    }
    draw(svg, "path", { d: path, class: "te-line" });
    this.signs = ["te-half", "te-best"].map((name) => draw(svg, "path", { class: name }));
    this.dots = ["te-ghost", "te-dot"].map((name) => draw(svg, "circle", { r: 7, class: name }));
  }

  moveMarks(integer, now, before) {
    const x = this.x(integer);
    for (const [from, group] of this.bars) group.classList.toggle("te-faint", from < integer);
    this.cut.setAttribute("d", `M${x} 30V214`);
    this.yes.setAttribute("x", Math.min(x + 5, 368));
    const half = this.atHalf(), entry = this.entries[this.selected];
    [half, this.best].forEach((one, place) => {
      this.marks[place].setAttribute("d", one === null ? "" : `M${this.x(one)} 46V214`);
      if (!this.signs) return;
      const { recall, precision } = figures(entry, one ?? 0), [px, py] = this.at(recall, precision);
      const square = `M${px - 6} ${py - 6}h12v12h-12z`, diamond = `M${px} ${py - 9}l9 9l-9 9l-9 -9z`;
      this.signs[place].setAttribute("d", one === null ? "" : place ? diamond : square);
    });
    this.dots?.forEach((dot, place) => {
      const { recall, precision } = [before, now][place], [cx, cy] = this.at(recall, precision);
      dot.setAttribute("cx", cx);
      dot.setAttribute("cy", cy);
    });
    const words = `${percent(now.recall)} found, ${percent(now.precision)} of the yes right`;
    this.parts.curve.setAttribute("aria-label", `Precision against recall. Here: ${words}.`);
    this.parts.scores.setAttribute("aria-label", "Histogram of scores with the threshold at " +
      `probability ${this.probability(integer).toFixed(3)}: ${words}.`);
  }

  change(file, reason) {
    const changes = Object.create(null); // a class may be called __proto__
    file.classes.forEach((entry, index) => {
      const integer = this.integers[index];
      if (integer === entry.integer) return;
      changes[entry.name] = [entry.integer, integer];
      Object.assign(entry, { integer, logit: this.logit(integer), adopted: true,
        probability: this.probability(integer), created_by: "person", reason });
    });
    return changes;
  }
}

class UnknownThreshold extends Explorer {
  constructor(model, el) {
    super(model, el, SINGLE_LABEL);
    const { parts, base } = this;
    this.curve = this.data.curve;
    this.start = this.curve.findIndex((one) => one.chosen);
    this.onDrawing("curve", (x) => {
      const far = this.curve.map((one) => Math.abs(this.at(one.threshold, 0)[0] - x));
      this.show(far.indexOf(Math.min(...far)));
    });
    parts.reason.textContent = `${base.created_by === "search" ? "The search said: " : "It was "}${base.unknown.reason}.`;
    [parts.slider.min, parts.slider.max] = [0, this.curve.length - 1];
    this.drawCurve();
    this.on("slider", "input", () => this.show(Number(parts.slider.value)));
    this.on("reset", "click", () => this.show(this.start));
    this.show(this.start);
  }

  shown(confidence) { return confidence.toFixed(3); }
  words(lower, moved) {
    return moved ? (lower
      ? [["Now answered, rightly", (yes, right) => right], ["Now answered, wrongly", (yes, right) => !right]]
      : [["Now unknown, would have been right", (yes, right) => right],
        ["Now unknown, would have been wrong", (yes, right) => !right]])
      : [["Just answered, rightly", (yes, right) => yes && right], ["Just answered, wrongly", (yes, right) => yes && !right],
        ["Just unknown, would have been right", (yes, right) => !yes && right],
        ["Just unknown, would have been wrong", (yes, right) => !yes && !right]];
  }

  drawCurve() {
    const svg = this.parts.curve;
    this.at = drawAxes(svg, 620, 220, (share) => share, "confidence →");
    for (const [name, line] of [["coverage", "te-line"], ["accepted_accuracy", "te-second"]]) {
      const known = this.curve.filter((one) => one[name] !== null);
      const points = known.map((one) => this.at(one.threshold, one[name]).map((place) => place.toFixed(1)).join(" "));
      draw(svg, "path", { d: `M${points.join("L")}`, class: line });
    }
    this.cut = draw(svg, "path", { class: "te-cut" });
  }

  show(row) {
    this.row = row;
    const now = this.curve[row], { parts, base } = this, { target_accept_accuracy, min_coverage } = base.objective;
    this.showSlider(row, now.threshold, " confidence");
    parts.words.textContent = `Of ${images(base.scores.images)}, ${images(now.answered)} get an answer: ` +
      `${whole(now.correct)} right and ${whole(now.incorrect)} wrong. ${images(now.unknown)} get “unknown”.`;
    parts.coverage.textContent = percent(now.coverage);
    parts.accepted_accuracy.textContent = percent(now.accepted_accuracy);
    parts.utility.textContent = now.utility.toFixed(3);
    parts.wanted.textContent = `Wanted: ${percent(target_accept_accuracy)} of the answers right and ` +
      `${percent(min_coverage)} answered. ${now.meets_target ? "Both hold here." : "Not both hold here."}`;
    parts.reset.disabled = row === this.start;
    const start = this.curve[this.start];
    this.showPhotos(0, start.threshold, now.threshold, Math.abs(now.answered - start.answered));
    const [x, bottom] = this.at(now.threshold, 0);
    this.cut.setAttribute("d", `M${x} 20V${bottom}`);
    parts.curve.setAttribute("aria-label", `At confidence ${now.threshold.toFixed(3)}, ` +
      `${percent(now.coverage)} answered and ${percent(now.accepted_accuracy)} of the answers right.`);
  }

  change(file, reason) {
    if (this.row === this.start) return {};
    const now = this.curve[this.row], before = file.unknown.probability;
    Object.assign(file.unknown, { probability: now.threshold, coverage: now.coverage,
      coverage_interval: [now.coverage_low, now.coverage_high], accepted_accuracy: now.accepted_accuracy,
      accepted_accuracy_interval: now.accuracy_low === null ? null : [now.accuracy_low, now.accuracy_high],
      held_out_accuracy: null, utility: now.utility, meets_target: now.meets_target, reason });
    return { unknown: [before, now.threshold] };
  }
}

function render({ model, el }) {
  const shown = model.get("data").curve ? new UnknownThreshold(model, el) : new ClassThresholds(model, el);
  const answer = (message) => (message.turned ? shown.take(message.turned) : shown.say(message.said));
  model.on("msg:custom", answer);
  return () => model.off("msg:custom", answer);
}

export default { render };
