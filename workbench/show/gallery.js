// Photos with words: filter by class and by kind, the most wrong first. Runs in both hosts of panel.py:
// no request, no library, no inline style, and every name is text.

const MARKUP = `<section class="picture-gallery">
  <h3 data-part="title"></h3><p data-part="about"></p>
  <p class="filters"><label>Class <select data-part="class"><option value="">all</option></select></label>
  <label>Kind <select data-part="kind"><option value="">all</option></select></label>
  <label hidden>Points from the threshold <select data-part="within"><option value="">all</option></select></label>
  <label>Find <input type="search" autocomplete="off" data-part="find"></label>
  <span aria-live="polite" data-part="shown"></span></p>
  <p hidden data-part="judging"><button data-part="download">Download judgements</button>
  <span aria-live="polite" data-part="said"></span></p>
  <div class="pictures" data-part="pictures"></div></section>`;

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function card(picture) {
  const figure = element("figure", "picture"), image = element("img"), words = element("figcaption");
  const lines = picture.marks.filter((mark) => mark.words);
  image.src = picture.image;
  image.alt = [picture.title, picture.kind, picture.caption, ...lines.map((mark) => mark.words)]
    .filter(Boolean).join(". ");
  words.append(element("b", "", picture.title), picture.kind ? ` · ${picture.kind}` : "");
  if (picture.caption) words.append(element("br"), picture.caption);
  for (const { words: line, wrong } of lines) words.append(element("div", wrong > 0 ? "wrong" : "", line));
  figure.append(image, words);
  if (picture.near) {
    const row = element("div", "near");
    for (const { image: source, title } of picture.near) {
      const small = element("img");
      [small.src, small.alt, small.title] = [source, `in training: ${title}`, title];
      row.append(small);
    }
    figure.append(row);
  }
  return figure;
}

// Judgements of mistakes: live they go to the notebook, in a page to the browser and a download.
const JUDGEMENTS = ["label wrong", "network wrong", "unusable"];

class Judging {
  constructor(model, said, download) {
    const { judged, judge } = model.get("data");
    Object.assign(this, { model, said, live: Boolean(model.get("live")), store: `judgements: ${judge}`, made: new Map() });
    for (const one of [...judged, ...(this.live ? [] : this.stored())]) this.put(one, one.judgement);
    download.hidden = this.live;
    download.addEventListener("click", () => this.download(judge));
    if (this.live) model.on("msg:custom", (message) => { said.textContent = message.said ?? ""; });
  }
  key({ filepath, class: name, kind }) { return JSON.stringify([filepath, name, kind]); }
  put(mistake, judgement) {
    const { filepath, class: name, kind } = mistake, key = this.key(mistake);
    if (judgement) this.made.set(key, { filepath, class: name, kind, judgement }); else this.made.delete(key);
  }
  stored() {
    try { return JSON.parse(localStorage.getItem(this.store)) ?? []; } catch { return []; }
  }
  buttons(mistake) {
    const row = element("div", "judge"), made = JUDGEMENTS.map((words) => element("button", "", words));
    const mark = () => made.forEach((button) => button.setAttribute("aria-pressed",
      String(this.made.get(this.key(mistake))?.judgement === button.textContent)));
    for (const button of made) button.addEventListener("click", () => {
      const judgement = button.getAttribute("aria-pressed") === "true" ? "" : button.textContent;
      this.put(mistake, judgement);
      mark();
      if (this.live) { this.model.send({ mistake, judgement }); return; }
      try { localStorage.setItem(this.store, JSON.stringify([...this.made.values()])); } catch { /* told below */ }
      this.said.textContent = `${this.made.size} judged; kept in this browser until you download them`;
    });
    mark();
    row.append(...made);
    return row;
  }
  download(command) {
    const link = element("a"), text = JSON.stringify({ schema: 1, judgements: [...this.made.values()] }, null, 2);
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = "judgements.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    this.said.textContent = `Downloaded. ${command} corrects the labels`;
  }
}

function render({ model, el }) {
  const { title, about, pictures, within = [] } = model.get("data"), parts = {};
  el.innerHTML = MARKUP;
  for (const part of el.querySelectorAll("[data-part]")) {
    parts[part.dataset.part] = part;
    part.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys for itself
  }
  parts.title.textContent = title;
  parts.about.textContent = about;
  const all = pictures.flatMap((picture) => picture.marks);
  for (const key of ["class", "kind"]) {
    const values = [...new Set(all.map((mark) => mark[key]))].filter(Boolean).sort();
    for (const value of values) parts[key].add(new Option(value, value));
    parts[key].parentElement.hidden = !values.length;
  }
  for (const points of within) parts.within.add(new Option(`at most ${points}`, points));
  parts.within.parentElement.hidden = !within.length;
  const cards = pictures.map((picture) => ({ figure: card(picture), marks: picture.marks }));
  if (model.get("data").judge) {
    const judging = new Judging(model, parts.said, parts.download);
    parts.judging.hidden = false;
    pictures.forEach(({ mistake }, place) => cards[place].figure.append(judging.buttons(mistake)));
  }
  const show = () => {
    const [name, kind] = [parts.class.value, parts.kind.value], wanted = parts.find.value.trim().toLowerCase();
    const far = parts.within.value === "" ? Infinity : parts.within.value / 100, shown = [];
    for (const { figure, marks } of cards) {
      const fitting = marks.filter((mark) => (!name || mark.class === name) && (!kind || mark.kind === kind)
        && -mark.wrong <= far);
      if (fitting.length && figure.textContent.toLowerCase().includes(wanted)) {
        shown.push([Math.max(...fitting.map((mark) => mark.wrong)), figure]);
      }
    }
    shown.sort(([one], [other]) => other - one);
    parts.pictures.replaceChildren(...shown.map(([, figure]) => figure));
    parts.shown.textContent = `${shown.length} of ${cards.length} shown`;
  };
  for (const key of ["class", "kind", "within", "find"]) parts[key].addEventListener("input", show);
  show();
}

export default { render };
