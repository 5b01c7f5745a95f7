"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("routing").textContent);
  const [run, direction, layer] = ["run", "direction", "layer"].map((id) => document.getElementById(id));
  const ALL = "all";

  // From nearly white to dark blue: one hue, so that lightness alone tells.
  function colours(mean, strata) {
    const t = (mean - 1) / Math.max(strata - 1, 1);
    const mix = (from, to) => Math.round(from + (to - from) * t);
    return [`rgb(${mix(232, 0)}, ${mix(241, 68)}, ${mix(248, 120)})`, t > 0.62 ? "white" : "#1b1f24"];
  }

  function paint(element, mean, strata) {
    [element.style.backgroundColor, element.style.color] = colours(mean, strata);
    return element;
  }

  function add(parent, name, className, text) {
    const element = parent.appendChild(document.createElement(name));
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function fill(select, options) {
    const before = select.value;
    select.replaceChildren();
    for (const [value, text] of options) add(select, "option", "", text).value = value;
    if (options.some(([value]) => value === before)) select.value = before;
  }

  function addSide(parent, title, side, strata) {
    add(parent, "span", "side", title);
    const row = add(parent, "div", "tokens");
    row.dir = side.dir || "auto";
    const chosen = Object.entries(side.visits).filter(([block]) => layer.value === ALL || block.endsWith("." + layer.value));
    side.tokens.forEach((token, place) => {
      const mean = chosen.reduce((sum, [, visits]) => sum + visits[place], 0) / Math.max(chosen.length, 1);
      const element = paint(add(row, "span", "token", token), mean, strata);
      element.dir = "auto"; // a tag's brackets stand around it, whichever way the sentence is written
      element.dataset.visits = mean;
      element.title = Object.entries(side.visits).map(([block, visits]) => `${block}: ${visits[place]}`).join(", ");
      add(element, "sub", "", Number(mean.toFixed(2)).toString());
    });
  }

  function show() {
    const { strata, directions } = runs[run.value];
    const place = document.getElementById("sentences");
    place.replaceChildren();
    for (const sentence of directions[direction.value]) {
      const row = add(place, "div", "sentence");
      add(row, "span", "line", sentence.line);
      addSide(row, "source", sentence.encoder, strata);
      addSide(row, "reference", sentence.decoder, strata);
    }
    const scale = document.getElementById("scale");
    scale.replaceChildren("visits");
    for (let visits = 1; visits <= strata; visits += 1) paint(add(scale, "i", "", visits), visits, strata);
  }

  function choose() {
    const { blocks, directions } = runs[run.value];
    fill(direction, Object.keys(directions).map((name) => [name, name]));
    const layers = [...new Set(blocks.map((block) => block.split(".").slice(1).join(".")))]; // of both sides
    fill(layer, [[ALL, "mean of all"], ...layers.map((name) => [name, name])]);
    show();
  }

  fill(run, Object.keys(runs).map((name) => [name, name]));
  run.parentElement.hidden = Object.keys(runs).length < 2;
  run.addEventListener("change", choose);
  direction.addEventListener("change", show);
  layer.addEventListener("change", show);
  choose();
})();
