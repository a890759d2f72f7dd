"use strict";
// Three starts, the same five points, the same gradient steps: MAML's initialisation, pre-training's and random weights
// (Finn, Abbeel and Levine, 2017, section 5.1). The weights come from sinusoid-weights.js (book/_ext/live_figures.py).

(() => {
  const SIZES = [1, 40, 40, 1], RATE = 0.01, MOST = 10; // the network and the inner rate of the recorded runs
  const X = 5, Y = 6; // a panel reaches from -X to X and from -Y to Y
  const COLOURS = ["rgb(0, 114, 178)", "rgb(213, 94, 0)", "rgb(0, 158, 115)"]; // the book's first three
  const TITLES = { maml: "Learned by MAML", pretrain: "Pre-trained", random: "Random weights" };
  const grid = Array.from({ length: 161 }, (_, i) => -X + (2 * X * i) / 160);

  // ---- The network: a list of layers { w: outputs × inputs, b }, with rectifiers between them.

  function unpacked(base64) {
    const numbers = Array.from(new Float32Array(live.bytes(base64)));
    return SIZES.slice(1).map((outputs, i) => ({
      w: Array.from({ length: outputs }, () => numbers.splice(0, SIZES[i])),
      b: numbers.splice(0, outputs),
    }));
  }

  // The values of every layer at one input, from the input on.
  function forward(layers, x) {
    const values = [[x]];
    layers.forEach(({ w, b }, i) => {
      const last = values[i];
      const sums = w.map((row, o) => row.reduce((sum, weight, j) => sum + weight * last[j], b[o]));
      values.push(i < layers.length - 1 ? sums.map((sum) => Math.max(sum, 0)) : sums);
    });
    return values;
  }

  const output = (layers, x) => forward(layers, x)[layers.length][0];
  const error = (layers, points) =>
    points.reduce((sum, [x, y]) => sum + (output(layers, x) - y) ** 2, 0) / points.length;

  // One step of gradient descent on the mean squared error of the points.
  function step(layers, points) {
    const next = layers.map(({ w, b }) => ({ w: w.map((row) => [...row]), b: [...b] }));
    for (const [x, y] of points) {
      const values = forward(layers, x);
      let slopes = [(2 * (values[layers.length][0] - y)) / points.length];
      for (let i = layers.length - 1; i >= 0; i--) {
        const { w } = layers[i], last = values[i];
        slopes.forEach((slope, o) => {
          next[i].b[o] -= RATE * slope;
          last.forEach((value, j) => { next[i].w[o][j] -= RATE * slope * value; });
        });
        slopes = last.map((value, j) => (value > 0 ? slopes.reduce((sum, slope, o) => sum + slope * w[o][j], 0) : 0));
      }
    }
    return next;
  }

  function adapted(start, points, steps) {
    let layers = starts[start];
    for (let i = 0; i < steps; i++) layers = step(layers, points);
    return layers;
  }

  // ---- The page.

  const figure = document.getElementById("fig-maml-live");
  const { element, button } = live;
  const group = live.group("sinusoid", "three networks descend on five points that you move");
  const weights = globalThis.sinusoidWeights;
  if (!weights) {
    group.append(element("p", { textContent: "The weights are not here: mlcore run maml-sinusoid --profile record, and "
      + "pretrain-sinusoid, make them." }));
    figure.prepend(group);
    return;
  }
  const starts = Object.fromEntries(Object.keys(TITLES).map((start) => [start, unpacked(weights[start])]));
  let wave = { amplitude: 4, phase: 1 }, points = [], chosen = 0, steps = 0;
  globalThis.sinusoid = {
    points: () => points,
    steps: () => steps,
    outputs: (start, x) => { const layers = adapted(start, points, steps); return x.map((value) => output(layers, value)); },
  };

  const said = live.spoken();
  const keys = element("p", { className: "keys", id: "sinusoid-keys", textContent:
    "Drag a point in any panel. With the keyboard, in a panel: the arrows move the marked point (with Shift by less), N "
    + "marks the next one, plus and minus change the number of steps." });
  const slider = element("input", { type: "range", min: 0, max: MOST, value: 0 });
  const count = element("output");
  const style = (name) => getComputedStyle(group).getPropertyValue(name).trim();

  class Panel {
    constructor(start, colour) {
      Object.assign(this, { start, colour });
      this.canvas = element("canvas", { width: 600, height: 480, tabIndex: 0 });
      this.canvas.setAttribute("role", "application");
      this.canvas.setAttribute("aria-label", `${TITLES[start]}: a curve and five points`);
      this.canvas.setAttribute("aria-describedby", keys.id);
      this.caption = element("span");
      this.box = element("div", { className: "panel" },
        element("strong", { textContent: TITLES[start] }), this.canvas, this.caption);
      this.plane = live.plane(this.canvas, X, Y);
      this.held = live.follow(this.canvas, {
        press: (event) => this.press(event),
        move: (event) => moveTo(this.plane.at(event)),
        done: refresh,
        key: (event) => key(event, this.plane),
      });
    }

    press(event) {
      if (dragging()) return false;
      const near = this.plane.near(points, event);
      if (near < 0) return false;
      chosen = near;
      refresh();
      return true;
    }

    paint() {
      const context = this.canvas.getContext("2d"), { width, height } = this.canvas;
      const { pixels } = this.plane;
      const ink = style("--ink") || "#222", paper = style("--paper") || "#fff", edge = style("--edge") || "#666";
      const layers = adapted(this.start, points, steps);
      const curve = (f, colour, thickness, dashes) => {
        context.beginPath();
        grid.forEach((x, i) => context[i ? "lineTo" : "moveTo"](...pixels([x, f(x)])));
        Object.assign(context, { strokeStyle: colour, lineWidth: thickness });
        context.setLineDash(dashes);
        context.stroke();
        context.setLineDash([]);
      };
      context.clearRect(0, 0, width, height);
      curve(() => 0, edge, 1, [3, 6]);
      if (wave) curve((x) => wave.amplitude * Math.sin(x - wave.phase), edge, 3, [10, 8]);
      curve((x) => output(starts[this.start], x), this.colour, 2, [3, 5]);
      curve((x) => output(layers, x), this.colour, 5, []);
      points.forEach((point, i) => live.dot(context, pixels(point), ink, paper, i === chosen));
      this.caption.textContent = `error on the points ${error(layers, points).toFixed(2)}`;
    }
  }

  const dragging = () => panels.some((panel) => panel.held());

  function moveTo(point) {
    points[chosen] = point;
    wave = null; // the points are no longer any wave's
    refresh();
  }

  function setSteps(number) {
    steps = Math.min(Math.max(number, 0), MOST);
    refresh();
  }

  function newWave() {
    wave = { amplitude: 0.1 + 4.9 * Math.random(), phase: Math.PI * Math.random() };
    points = Array.from({ length: 5 }, () => {
      const x = -X + 2 * X * Math.random();
      return [x, wave.amplitude * Math.sin(x - wave.phase)];
    });
    [chosen, steps] = [0, 0];
    refresh();
  }

  function reset() {
    wave = { amplitude: 4, phase: 1 };
    points = [-4.2, -2.3, 0.4, 2.2, 3.9].map((x) => [x, wave.amplitude * Math.sin(x - wave.phase)]);
    [chosen, steps] = [0, 0];
    refresh();
  }

  function key(event, plane) {
    if (event.ctrlKey || event.altKey || event.metaKey) return false;
    const moved = plane.moved(points[chosen], event, 0.2);
    if (moved) moveTo(moved);
    else if (event.key.toLowerCase() === "n") {
      chosen = (chosen + 1) % points.length;
      refresh();
    } else if (["+", "="].includes(event.key)) setSteps(steps + 1);
    else if (event.key === "-") setSteps(steps - 1);
    else return false;
    return true;
  }

  const refresh = live.onceAFrame(() => {
    panels.forEach((panel) => panel.paint());
    slider.value = steps;
    count.textContent = `${steps} step${steps === 1 ? "" : "s"}`;
    if (dragging()) return; // a screen reader would speak at every move
    const errors = Object.keys(TITLES).map((start) =>
      `${TITLES[start].toLowerCase().replace("maml", "MAML")}, ${error(adapted(start, points, steps), points).toFixed(2)}`);
    said.textContent = `After ${count.textContent}, the mean squared error on the five points: ${errors.join("; ")}.`;
  });

  const panels = Object.keys(TITLES).map((start, i) => new Panel(start, COLOURS[i]));
  slider.addEventListener("input", () => setSteps(Number(slider.value)));
  group.append(
    element("div", { className: "controls" },
      button("One step", () => setSteps(steps + 1)),
      element("label", {}, "Steps", slider), count,
      button("New wave", newWave), button("Reset", reset)),
    element("div", { className: "panels" }, ...panels.map((panel) => panel.box)),
    said, keys);
  live.show(figure, group, refresh);
  reset();
})();
