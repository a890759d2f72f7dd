"use strict";
// Four rules, one plane: drag a support point, and see what each rule makes of it.
// Inputs are their own embeddings, z = x; each rule is a class of mlcore.learners with its default settings.

(() => {
  const LIMIT = 4; // the plane reaches from -LIMIT to LIMIT
  const CELLS = 96; // a side of a panel, in squares of one colour
  const CLASSES = ["circle", "square", "triangle"];
  const COLOURS = [[0, 114, 178], [213, 94, 0], [0, 158, 115]]; // the book's first three
  const START = [
    [0, 0.9, 1.1], [0, 1.5, 0.5], [0, 0.8, 0.4], [0, 1.3, 1.6],
    [1, 2.9, 2.3], [1, 2.3, 2.9], [1, 3.1, 3.1], [1, 0.2, 2.9],
    [2, -1.6, 0.7], [2, -2.4, -0.3], [2, -1.1, -1.2], [2, 1.6, -2.2],
  ];

  // ---- The rules: update(support) gives a state, predict(state, z) one output a class.
  // A support point is { k, z: [z1, z2] }; every class has one or more.

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const squared = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2;
  const unit = (z) => z.map((value) => value / Math.max(Math.hypot(...z), 1e-12));
  const classes = CLASSES.map((_, k) => k);

  function softmax(outputs) {
    const most = Math.max(...outputs), shares = outputs.map((o) => Math.exp(o - most));
    const total = shares.reduce((a, b) => a + b, 0);
    return shares.map((share) => share / total);
  }

  function means(support) {
    return classes.map((k) => {
      const own = support.filter((point) => point.k === k);
      return [0, 1].map((j) => own.reduce((sum, point) => sum + point.z[j], 0) / own.length);
    });
  }

  // W = (ZᵀZ + λI)⁻¹ ZᵀY with λ = 1, which equals Zᵀ (ZZᵀ + λI)⁻¹ Y and is 2 × 2.
  function solved(support) {
    const sum = (f) => support.reduce((total, point) => total + f(point.z), 0);
    const a = 1 + sum((z) => z[0] * z[0]), b = sum((z) => z[0] * z[1]), d = 1 + sum((z) => z[1] * z[1]);
    const determinant = a * d - b * b;
    return classes.map((k) => {
      const own = support.filter((point) => point.k === k);
      const [x, y] = [0, 1].map((j) => own.reduce((total, point) => total + point.z[j], 0));
      return [(d * x - b * y) / determinant, (a * y - b * x) / determinant];
    });
  }

  const RULES = {
    ProtoNet: { update: means, predict: (state, z) => state.map((c) => -squared(z, c)) },
    MatchingNet: {
      update: (support, scale) => ({ scale, memory: support.map(({ k, z }) => ({ k, z: unit(z) })) }),
      predict: ({ scale, memory }, z) => {
        const attention = softmax(memory.map((point) => scale * dot(unit(z), point.z)));
        return classes.map((k) =>
          Math.log(Math.max(memory.reduce((sum, point, i) => sum + (point.k === k ? attention[i] : 0), 0), 1e-12)));
      },
    },
    NearestNeighbour: {
      update: (support) => support,
      predict: (support, z) => classes.map((k) =>
        -Math.min(...support.filter((point) => point.k === k).map((point) => squared(z, point.z)))),
    },
    Ridge: { update: solved, predict: (state, z) => state.map((w) => 10 * dot(z, w)) },
  };

  // Probabilities of the classes at some points, by one rule.
  function probabilities(rule, support, queries, scale = 1) {
    const state = RULES[rule].update(support, scale);
    return queries.map((z) => softmax(RULES[rule].predict(state, z)));
  }

  // ---- The page.

  const TITLES = {
    ProtoNet: "Prototypes",
    MatchingNet: "Matching, by cosines",
    NearestNeighbour: "Nearest neighbour",
    Ridge: "Ridge regression",
  };
  const figure = document.getElementById("fig-metric-live");
  let points, chosen;
  globalThis.metric = { probabilities, RULES: Object.keys(RULES), support: () => points };

  const { element, button } = live;
  const group = live.group("metric", "four rules divide one plane between three classes of points that you move");
  const said = live.spoken();
  const keys = element("p", { className: "keys", id: "metric-keys", textContent:
    "Drag a point in any panel; press on empty ground to add one. With the keyboard, in a panel: the arrows move the marked "
    + "point (with Shift by less), N marks the next one, 1, 2 and 3 add a circle, a square and a triangle, Delete removes." });
  const sharp = element("input", { type: "checkbox" });
  const kinds = CLASSES.map((name, k) =>
    element("input", { type: "radio", name: "metric-class", value: String(k), checked: k === 0 }));

  const style = (name) => getComputedStyle(group).getPropertyValue(name).trim();
  const toPanel = (value, size) => ((value + LIMIT) / (2 * LIMIT)) * size;
  const centres = Array.from({ length: CELLS }, (_, i) => ((i + 0.5) / CELLS) * 2 * LIMIT - LIMIT);
  const grid = centres.flatMap((y) => centres.map((x) => [x, -y]));

  class Panel {
    constructor(rule) {
      this.rule = rule;
      this.canvas = element("canvas", { width: 640, height: 640, tabIndex: 0 });
      this.canvas.setAttribute("role", "application");
      this.canvas.setAttribute("aria-label", `${TITLES[rule]}: a plane with points of three classes`);
      this.canvas.setAttribute("aria-describedby", keys.id);
      this.cells = element("canvas", { width: CELLS, height: CELLS });
      this.box = element("div", { className: "panel" }, element("strong", { textContent: TITLES[rule] }), this.canvas);
      this.plane = live.plane(this.canvas, LIMIT, LIMIT);
      this.held = live.follow(this.canvas, {
        press: (event) => this.press(event),
        move: (event) => moveTo(this.plane.at(event)),
        done: refresh,
        key: (event) => key(event, this.plane),
      });
    }

    press(event) {
      if (dragging()) return false;
      const z = this.plane.at(event), reach = (event.pointerType === "touch" ? 22 : 12) * (2 * LIMIT) / this.canvas.clientWidth;
      const near = points.map((point, i) => i).sort((a, b) => squared(points[a].z, z) - squared(points[b].z, z))[0];
      if (squared(points[near].z, z) <= reach * reach) chosen = near;
      else add(Number(kinds.find((kind) => kind.checked).value), z);
      refresh();
      return true;
    }

    paint(support) {
      const context = this.canvas.getContext("2d"), size = this.canvas.width;
      const shades = this.cells.getContext("2d").createImageData(CELLS, CELLS);
      probabilities(this.rule, support, grid, sharp.checked ? 10 : 1).forEach((p, i) => {
        const k = p.indexOf(Math.max(...p));
        // From a chance of one in three, hardly coloured, to certainty.
        shades.data.set([...COLOURS[k], 255 * (0.1 + 0.45 * ((p[k] - 1 / 3) / (2 / 3)))], 4 * i);
      });
      this.cells.getContext("2d").putImageData(shades, 0, 0);
      context.clearRect(0, 0, size, size);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.cells, 0, 0, size, size);
      const ink = style("--ink") || "#222", paper = style("--paper") || "#fff";
      context.strokeStyle = ink;
      context.lineWidth = 1;
      context.setLineDash([4, 6]);
      context.beginPath(); // the axes meet where cosines and ridge regression look from
      context.moveTo(size / 2, 0);
      context.lineTo(size / 2, size);
      context.moveTo(0, size / 2);
      context.lineTo(size, size / 2);
      context.stroke();
      context.setLineDash([]);
      support.forEach((point, i) => this.mark(context, point, ink, paper, i === chosen));
      if (this.rule === "ProtoNet") means(support).forEach((c) => this.cross(context, c, ink, paper));
    }

    mark(context, { k, z }, ink, paper, ringed) {
      const size = this.canvas.width, x = toPanel(z[0], size), y = toPanel(-z[1], size);
      const r = (6 * size) / (this.canvas.clientWidth || size); // six pixels of the screen
      context.beginPath();
      if (k === 0) context.arc(x, y, r, 0, 2 * Math.PI);
      else if (k === 1) context.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
      else {
        context.moveTo(x, y - r * 1.2);
        context.lineTo(x + r * 1.15, y + r * 0.9);
        context.lineTo(x - r * 1.15, y + r * 0.9);
        context.closePath();
      }
      context.fillStyle = `rgb(${COLOURS[k]})`;
      context.fill();
      context.lineWidth = 3;
      context.strokeStyle = paper;
      context.stroke();
      if (!ringed) return;
      context.beginPath();
      context.arc(x, y, 2 * r, 0, 2 * Math.PI);
      context.strokeStyle = ink;
      context.stroke();
    }

    cross(context, c, ink, paper) {
      const size = this.canvas.width, x = toPanel(c[0], size), y = toPanel(-c[1], size);
      for (const [width, colour] of [[10, paper], [5, ink]]) {
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.beginPath();
        context.moveTo(x - 11, y - 11);
        context.lineTo(x + 11, y + 11);
        context.moveTo(x - 11, y + 11);
        context.lineTo(x + 11, y - 11);
        context.stroke();
      }
    }
  }

  const dragging = () => panels.some((panel) => panel.held());

  function add(k, z) {
    points.push({ k, z });
    chosen = points.length - 1;
  }

  function moveTo(z) {
    points[chosen].z = z;
    refused = null;
    refresh();
  }

  const isLast = ({ k }) => points.filter((point) => point.k === k).length === 1;
  let refused = null; // the point that was to go and could not
  function remove() {
    if (isLast(points[chosen])) refused = points[chosen];
    else {
      points.splice(chosen, 1);
      chosen = Math.max(chosen - 1, 0);
    }
    refresh();
  }

  function next() {
    chosen = (chosen + 1) % points.length;
    refresh();
  }

  function reset() {
    points = START.map(([k, ...z]) => ({ k, z }));
    chosen = 0;
    refresh();
  }

  function key(event, plane) {
    if (event.ctrlKey || event.altKey || event.metaKey) return false;
    const moved = plane.moved(points[chosen].z, event, 0.2);
    if (moved) moveTo(moved);
    else if (event.key === "Delete" || event.key === "Backspace") remove();
    else if (event.key.toLowerCase() === "n") next();
    else if (["1", "2", "3"].includes(event.key)) {
      add(Number(event.key) - 1, [0, 0]);
      refresh();
    } else return false;
    return true;
  }

  function words() {
    const { k, z } = points[chosen], number = (value) => value.toFixed(1).replace("-", "−");
    const claims = Object.keys(RULES).map((rule) => {
      const [p] = probabilities(rule, points, [z], sharp.checked ? 10 : 1);
      const most = p.indexOf(Math.max(...p));
      return `${TITLES[rule].toLowerCase()}, ${CLASSES[most]} (${(100 * p[most]).toFixed(0)}\u00a0%)`;
    });
    const why = points[chosen] === refused && isLast(refused)
      ? `This is the last ${CLASSES[k]}: a class needs one point or more. ` : "";
    return `${why}Marked: a ${CLASSES[k]} at (${number(z[0])}, ${number(z[1])}). What each rule would call a query there: `
      + `${claims.join("; ")}.`;
  }

  const refresh = live.onceAFrame(() => {
    panels.forEach((panel) => panel.paint(points));
    if (dragging()) return; // a screen reader would speak at every move
    said.textContent = words();
  });

  const panels = Object.keys(RULES).map((rule) => new Panel(rule));
  sharp.addEventListener("change", refresh);
  group.append(
    element("div", { className: "panels" }, ...panels.map((panel) => panel.box)),
    said,
    element("div", { className: "controls" },
      element("span", { textContent: "A new point is a" }),
      ...CLASSES.map((name, k) => element("label", {}, kinds[k], name))),
    element("div", { className: "controls" },
      button("Next point", next), button("Remove it", remove), button("Reset", reset),
      element("label", {}, sharp, "cosines × 10")),
    keys);
  live.show(figure, group, refresh);
  new ResizeObserver(refresh).observe(group);
  reset();
})();
