"use strict";
// Episodes of letters: guess the class of a query before prototypes do (Snell, Swersky and Zemel, 2017).
// The letters come from episodes-data.js (book/_ext/live_figures.py), the network from protonet.js.

(() => {
  const SIDE = 28, ZOOM = 2; // of a picture, and how often a pixel is repeated on the screen
  const figure = document.getElementById("fig-episodes-live");
  const { element, button } = live;
  const group = live.group("episodes", "episodes of letters, with ways and shots of your choice, and a query to guess");
  if (!protonet.trained) {
    group.append(element("p", { textContent: protonet.MISSING }));
    figure.prepend(group);
    return;
  }

  // ---- Letters, and the sampler.

  const { classes, drawings, letters } = globalThis.episodesData; // two pixels a byte
  const packed = new Uint8Array(live.bytes(letters));

  function picture(letter, drawing) {
    const half = (SIDE * SIDE) / 2, at = (letter * drawings + drawing) * half;
    return Uint8Array.from({ length: SIDE * SIDE }, (_, i) => 17 * ((packed[at + (i >> 1)] >> (i % 2 ? 0 : 4)) & 15));
  }

  const embedded = new Map();
  function embed(letter, drawing) {
    const key = letter * drawings + drawing;
    if (!embedded.has(key)) embedded.set(key, protonet.embed(picture(letter, drawing)));
    return embedded.get(key);
  }

  // The first k of the numbers below n, shuffled (Fisher and Yates).
  function some(k, n) {
    const numbers = Array.from({ length: n }, (_, i) => i);
    for (let i = 0; i < k; i++) {
      const j = i + Math.floor(Math.random() * (n - i));
      [numbers[i], numbers[j]] = [numbers[j], numbers[i]];
    }
    return numbers.slice(0, k);
  }

  // A class of the episode: a letter, the drawings in the support set, and those left for queries.
  function sample(ways, shots) {
    return some(ways, classes).map((letter) => {
      const order = some(drawings, drawings);
      return { letter, support: order.slice(0, shots), rest: order.slice(shots) };
    });
  }

  function prototype({ letter, support }) {
    const each = support.map((drawing) => embed(letter, drawing));
    return each[0].map((_, i) => each.reduce((sum, z) => sum + z[i], 0) / each.length);
  }

  // ---- The page.

  let episode, query, guess, score = { you: 0, network: 0, queries: 0 };
  globalThis.episodes = { state: () => ({ episode, query, guess, score }), picture: (a, b) => Array.from(picture(a, b)), answer };

  const said = live.spoken();
  const slider = (min, max, value) => element("input", { type: "range", min, max, value, oninput: begin });
  const ways = slider(2, 9, 5), shots = slider(1, 5, 1);
  const [waysSaid, shotsSaid] = [element("output"), element("output")];
  const asked = element("div", { className: "asked" }), rows = element("div", { className: "classes" });
  const more = button("Next query", ask);

  function drawn(letter, drawing, label) {
    const canvas = element("canvas", { width: SIDE * ZOOM, height: SIDE * ZOOM });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    canvas.paint = () => {
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = getComputedStyle(group).getPropertyValue("--ink").trim() || "#222";
      picture(letter, drawing).forEach((value, i) => {
        context.globalAlpha = value / 255;
        context.fillRect((i % SIDE) * ZOOM, Math.floor(i / SIDE) * ZOOM, ZOOM, ZOOM);
      });
    };
    return canvas;
  }

  function begin() {
    waysSaid.textContent = `${ways.value}-way`;
    shotsSaid.textContent = `${shots.value}-shot`;
    episode = sample(Number(ways.value), Number(shots.value));
    rows.replaceChildren(...episode.map(({ letter, support }, k) => element("button",
      { type: "button", className: "class", onclick: () => judge(k) },
      element("strong", { textContent: `Class ${k + 1}` }),
      element("span", { className: "drawings" },
        ...support.map((drawing, i) => drawn(letter, drawing, `class ${k + 1}, support drawing ${i + 1}`))),
      element("span", { className: "share" }))));
    ask();
  }

  function ask() {
    const k = Math.floor(Math.random() * episode.length), { rest } = episode[k];
    query = { k, drawing: rest[Math.floor(Math.random() * rest.length)] };
    guess = null;
    asked.replaceChildren(element("strong", { textContent: "Query" }),
      drawn(episode[k].letter, query.drawing, "the query: a drawing of one of the classes"));
    for (const row of rows.children) {
      row.classList.remove("true", "nearest");
      row.querySelector(".share").textContent = "";
    }
    said.textContent = "Which class is the query of? Press it, or its number.";
    refresh();
  }

  // What prototypes say of the query: distances and probabilities.
  function answer() {
    return protonet.compare(episode.map(prototype), embed(episode[query.k].letter, query.drawing));
  }

  function judge(k) {
    if (guess !== null) return;
    guess = k;
    const { probabilities } = answer(), nearest = probabilities.indexOf(Math.max(...probabilities));
    score = {
      you: score.you + (k === query.k), network: score.network + (nearest === query.k), queries: score.queries + 1,
    };
    [...rows.children].forEach((row, i) => {
      row.classList.toggle("true", i === query.k);
      row.classList.toggle("nearest", i === nearest);
      row.querySelector(".share").textContent = `${(100 * probabilities[i]).toFixed(1)}\u00a0%${i === query.k ? " ✓" : ""}`;
    });
    const right = (is) => (is ? "right" : "wrong");
    said.textContent = `It is class ${query.k + 1}. You said ${k + 1}, ${right(k === query.k)}; the nearest prototype is that of `
      + `class ${nearest + 1}, ${right(nearest === query.k)}. So far: you ${score.you} of ${score.queries}, prototypes `
      + `${score.network} of ${score.queries}.`;
    more.focus({ preventScroll: true });
  }

  group.addEventListener("keydown", (event) => {
    const k = Number(event.key) - 1;
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.type === "range") return;
    if (k >= 0 && k < episode.length) judge(k);
  });

  const refresh = live.onceAFrame(() => group.querySelectorAll("canvas").forEach((canvas) => canvas.paint()));

  group.append(
    element("div", { className: "controls" },
      element("label", {}, "Ways", ways), waysSaid, element("label", {}, "Shots", shots), shotsSaid),
    asked, rows, said,
    element("div", { className: "controls" }, more, button("New episode", begin)));
  live.show(figure, group, refresh);
  begin();
})();
