// Photos with words: filter by class and by kind, the most wrong first. Runs in both hosts of panel.py:
// no request, no library, no inline style, and every name is text.

const MARKUP = `<section class="picture-gallery">
  <h3 data-part="title"></h3><p data-part="about"></p>
  <p class="filters"><label>Class <select data-part="class"><option value="">all</option></select></label>
  <label>Kind <select data-part="kind"><option value="">all</option></select></label>
  <label hidden>Points from the threshold <select data-part="within"><option value="">all</option></select></label>
  <label>Find <input type="search" autocomplete="off" data-part="find"></label>
  <span aria-live="polite" data-part="shown"></span></p>
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
