// The explorer of single-label runs: from which confidence on does the app answer at all?
// No request, no library and no inline style: it runs under a policy that allows its hash alone.
"use strict";
(() => {
const SVG = "http://www.w3.org/2000/svg";
const BOX = { left: 52, right: 620, top: 20, bottom: 220 };
const percent = (share) => (share === null ? "undefined" : `${(100 * share).toFixed(1)} %`);
const images = (count) => `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;
const x = (share) => BOX.left + share * (BOX.right - BOX.left);
const y = (share) => BOX.bottom - share * (BOX.bottom - BOX.top);

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, one] of Object.entries(attributes)) element.setAttribute(key, one);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

class UnknownExplorer {
  constructor(root, data) {
    this.data = data;
    this.base = data.recommendation;
    this.curve = data.curve;
    this.parts = {};
    for (const part of root.querySelectorAll("[data-te]")) this.parts[part.dataset.te] = part;
    this.start = this.row = this.curve.findIndex((one) => one.chosen);
    this.parts.about.textContent =
      `Counted on ${images(this.base.scores.images)} of the ${this.base.scores.split} split.`;
    this.parts.command.textContent = data.command;
    const { unknown, created_by } = this.base;
    this.parts.reason.textContent =
      `${created_by === "search" ? "The search said: " : "It was "}${unknown.reason}.`;
    this.parts.slider.max = this.curve.length - 1;
    this.drawCurve();
    this.parts.slider.addEventListener("input", () => this.show(Number(this.parts.slider.value)));
    this.parts.reset.addEventListener("click", () => this.show(this.start));
    this.parts.save.addEventListener("click", () => this.save());
    this.show(this.start);
  }

  drawCurve() {
    const svg = this.parts.curve;
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      draw(svg, "path", { d: `M${BOX.left} ${y(share)}H${BOX.right}M${x(share)} ${BOX.top}V${BOX.bottom}`,
        class: "te-axis", "stroke-opacity": 0.4 });
      draw(svg, "text", { x: BOX.left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`);
      draw(svg, "text", { x: x(share), y: 238, "text-anchor": "middle" }, share);
    }
    draw(svg, "text", { x: BOX.right, y: 255, "text-anchor": "end" }, "confidence →");
    for (const [name, style] of [["coverage", "te-line"], ["accepted_accuracy", "te-second"]]) {
      const known = this.curve.filter((one) => one[name] !== null);
      const path = known.map((one) => `${x(one.threshold).toFixed(1)} ${y(one[name]).toFixed(1)}`);
      const dash = style === "te-second" ? { "stroke-dasharray": "6 3" } : {};
      draw(svg, "path", { d: `M${path.join("L")}`, class: style, ...dash });
    }
    this.cut = draw(svg, "path", { class: "te-cut" });
  }

  show(row) {
    this.row = row;
    const now = this.curve[row], { parts, base } = this, shown = now.threshold.toFixed(3);
    parts.slider.value = row;
    parts.slider.setAttribute("aria-valuetext", `confidence ${shown}`);
    const strong = document.createElement("b");
    strong.textContent = shown;
    parts.value.replaceChildren(strong, " confidence");
    parts.words.textContent = `Of ${images(base.scores.images)}, ${images(now.answered)} get an answer: ` +
      `${now.correct.toLocaleString("en")} right and ${now.incorrect.toLocaleString("en")} wrong. ` +
      `${images(now.unknown)} get “unknown”.`;
    parts.coverage.textContent = percent(now.coverage);
    parts.accepted_accuracy.textContent = percent(now.accepted_accuracy);
    parts.utility.textContent = now.utility.toFixed(3);
    const { target_accept_accuracy, min_coverage } = base.objective;
    parts.promise.textContent = `Wanted: ${percent(target_accept_accuracy)} of the answers right and ` +
      `${percent(min_coverage)} answered. ${now.meets_target ? "Both are kept here." : "Not both are kept here."}`;
    parts.reset.disabled = row === this.start;
    this.cut.setAttribute("d", `M${x(now.threshold)} ${BOX.top}V${BOX.bottom}`);
    parts.curve.setAttribute("aria-label", `At confidence ${shown}, ${percent(now.coverage)} answered ` +
      `and ${percent(now.accepted_accuracy)} of the answers right.`);
  }

  recommendation(who, why) {
    const file = structuredClone(this.base), now = this.curve[this.row];
    if (this.row === this.start) return file;
    file.created_by = "person";
    file.edits.push({ who, when: new Date().toISOString(), why,
      changes: { unknown: [file.unknown.probability, now.threshold] } });
    Object.assign(file.unknown, { probability: now.threshold, coverage: now.coverage,
      coverage_interval: null, accepted_accuracy: now.accepted_accuracy,
      accepted_accuracy_interval: null, utility: now.utility, meets_target: now.meets_target,
      reason: why ? `set by ${who}: ${why}` : `set by ${who}` });
    return file;
  }

  save() {
    const who = this.parts.who.value.trim(), why = this.parts.why.value.trim();
    if (!who) {
      this.parts.saved.textContent = "Please give your name first: it is kept with the threshold.";
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

for (const root of document.querySelectorAll(".te-unknown:not([data-te-started])")) {
  root.dataset.teStarted = "";
  root.explorer = new UnknownExplorer(root, JSON.parse(root.nextElementSibling.textContent));
}
})();
