// Filter a gallery by class and kind. No request, no library, no inline style.
"use strict";
for (const gallery of document.querySelectorAll(".picture-gallery:not([data-started])")) {
  gallery.dataset.started = "";
  const [byClass, byKind] = gallery.querySelectorAll("select");
  const pictures = [...gallery.querySelectorAll(".picture")];
  const filter = () => {
    for (const picture of pictures) {
      const classes = picture.dataset.classes.split("\n");
      picture.hidden = (byClass.value !== "" && !classes.includes(byClass.value)) ||
        (byKind.value !== "" && picture.dataset.kind !== byKind.value);
    }
    const shown = pictures.filter((picture) => !picture.hidden).length;
    gallery.querySelector(".shown").textContent = ` ${shown} of ${pictures.length} shown`;
  };
  byClass.addEventListener("change", filter);
  byKind.addEventListener("change", filter);
  filter();
}
