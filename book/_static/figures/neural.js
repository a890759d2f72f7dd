"use strict";
// Points of a curve: Bayes' rule for a Gaussian process of unknown length and scale (Rasmussen and Williams, 2006) beside two
// neural processes, the conditional (Garnelo et al., 2018) and the attentive one (Kim et al., 2019). Their weights come from
// neural-weights.js (book/_ext/live_figures.py).

(() => {
  const X = 2, Y = 3, FLOOR = 0.1, HEADS = 4, MOST = 20; // a panel reaches from -X to X and -Y to Y; at most so many points
  const NOISE = 0.02, LENGTHS = midpoints(0.1, 0.6), SCALES = midpoints(0.1, 1); // the tasks that the network trained on
  const COLOURS = { bayes: "rgb(0, 114, 178)", pooled: "rgb(213, 94, 0)", attentive: "rgb(0, 158, 115)" }; // the book's
  const TITLES = { bayes: "Bayes' rule", pooled: "A mean of points (CNP)", attentive: "Attention to points" };
  const grid = Array.from({ length: 121 }, (_, i) => -X + (2 * X * i) / 120);

  function midpoints(low, high, pieces = 10) {
    return Array.from({ length: pieces }, (_, i) => low + ((high - low) * (i + 0.5)) / pieces);
  }

  // ---- Bayes' rule: a Gaussian for each pair of length and scale, weighed by how probable it makes the points.

  const kernel = (a, b, length) => Math.exp(-0.5 * ((a - b) / length) ** 2);

  function cholesky(matrix) {
    const lower = matrix.map((row) => row.map(() => 0));
    matrix.forEach((row, i) => {
      for (let j = 0; j <= i; j++) {
        let rest = row[j];
        for (let k = 0; k < j; k++) rest -= lower[i][k] * lower[j][k];
        lower[i][j] = i === j ? Math.sqrt(rest) : rest / lower[j][j];
      }
    });
    return lower;
  }

  // The solution of lower · z = b.
  function forwards(lower, b) {
    const z = [];
    lower.forEach((row, i) => { z.push(z.reduce((rest, value, k) => rest - row[k] * value, b[i]) / row[i]); });
    return z;
  }

  function covariance(x, length, scale) {
    return x.map((a, i) => x.map((b, j) => scale ** 2 * kernel(a, b, length) + (i === j ? NOISE ** 2 : 0)));
  }

  function bayes(points, queries) {
    const x = points.map((point) => point[0]), y = points.map((point) => point[1]);
    const parts = LENGTHS.flatMap((length) => SCALES.map((scale) => {
      const lower = cholesky(covariance(x, length, scale)), white = forwards(lower, y);
      const evidence = white.reduce((sum, z, i) => sum - z * z / 2 - Math.log(lower[i][i]), 0);
      return { length, scale, lower, white, evidence };
    }));
    const most = Math.max(...parts.map((part) => part.evidence));
    const total = parts.reduce((sum, part) => sum + Math.exp(part.evidence - most), 0);
    const likely = parts.filter((part) => part.evidence > most - 20); // the others weigh nothing
    return queries.map((query) => {
      let mean = 0, square = 0;
      for (const { length, scale, lower, white, evidence } of likely) {
        const across = forwards(lower, x.map((a) => scale ** 2 * kernel(a, query, length)));
        const m = across.reduce((sum, z, i) => sum + z * white[i], 0);
        const v = scale ** 2 + NOISE ** 2 - across.reduce((sum, z) => sum + z * z, 0);
        const weight = Math.exp(evidence - most) / total;
        mean += weight * m;
        square += weight * (m * m + Math.max(v, NOISE ** 2));
      }
      return { mean, scale: Math.sqrt(square - mean * mean) };
    });
  }

  // ---- The networks. Weights by name, as torch keeps them: a matrix is a list of rows.

  // Half precision: a sign, five bits of exponent, ten of fraction.
  function halves(bytes) {
    return Array.from(new Uint16Array(bytes), (bits) => {
      const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024);
    });
  }

  function unpacked({ shapes, weights }) {
    const numbers = halves(live.bytes(weights));
    let at = 0;
    const take = (n) => numbers.slice(at, (at += n));
    return Object.fromEntries(Object.entries(shapes).map(([name, [rows, columns]]) => [
      name, columns ? Array.from({ length: rows }, () => take(columns)) : take(rows),
    ]));
  }

  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const linear = (net, name, x) => net[`${name}.weight`].map((row, o) => dot(row, x) + net[`${name}.bias`][o]);
  const plus = (a, b) => a.map((value, i) => value + b[i]);
  const softplus = (x) => Math.log1p(Math.exp(x));
  const normal = ([mean, raw]) => ({ mean, scale: FLOOR + (1 - FLOOR) * softplus(raw) });

  // Rectifiers between the layers, which have even numbers.
  function perceptron(net, name, x) {
    for (let i = 0; `${name}.${i}.weight` in net; i += 2) {
      x = linear(net, `${name}.${i}`, i ? x.map((value) => Math.max(value, 0)) : x);
    }
    return x;
  }

  // The conditional process: a mean over the encoded points.
  function pooled(points, queries) {
    const net = NETS.pooled, encoded = points.map((point) => perceptron(net, "encoder", point));
    const none = net["pooled.0.weight"][0].map(() => 0);
    const mean = encoded.reduce(plus, none).map((sum) => sum / Math.max(points.length, 1));
    const r = perceptron(net, "pooled", mean);
    return queries.map((x) => normal(perceptron(net, "decoder", [x, ...r])));
  }

  function normed(net, name, x) {
    const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
    const spread = Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length + 1e-5);
    return x.map((value, i) => net[`${name}.weight`][i] * ((value - mean) / spread) + net[`${name}.bias`][i]);
  }

  // Attention with several heads; a query that sees no point gets zeros before the last map.
  function attention(net, name, queries, keys, values) {
    const width = queries[0].length, size = width / HEADS;
    const part = (k) => (x) => Array.from({ length: width }, (_, o) =>
      dot(net[`${name}.in_proj_weight`][k * width + o], x) + net[`${name}.in_proj_bias`][k * width + o]);
    const [q, k, v] = [queries, keys, values].map((rows, i) => rows.map(part(i)));
    return q.map((asking) => {
      const seen = Array(width).fill(0);
      for (let head = 0; head < HEADS && k.length; head++) {
        const from = head * size, own = asking.slice(from, from + size);
        const scores = k.map((key) => dot(own, key.slice(from, from + size)) / Math.sqrt(size));
        const most = Math.max(...scores), weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        weights.forEach((weight, j) => { for (let i = 0; i < size; i++) seen[from + i] += (weight / total) * v[j][from + i]; });
      }
      return linear(net, `${name}.out_proj`, seen);
    });
  }

  // The error function by a rational approximation, to 2e-7 (Abramowitz and Stegun, 1964, 7.1.26).
  function erf(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return Math.sign(x) * (1 - series * Math.exp(-x * x));
  }
  const gelu = (x) => (x * (1 + erf(x / Math.SQRT2))) / 2;

  // The attentive process: points look at each other, and every query at the points.
  function attentive(points, queries) {
    const net = NETS.attentive, key = (x) => perceptron(net, "key", [x]);
    let values = points.map((point) => perceptron(net, "encoder", point));
    for (let layer = 0; values.length && `among.${layer}.norm1.weight` in net; layer++) {
      const name = `among.${layer}`, asking = values.map((value) => normed(net, `${name}.norm1`, value));
      const seen = attention(net, `${name}.self_attn`, asking, asking, asking);
      values = values.map((value, i) => plus(value, seen[i])).map((value) => {
        const hidden = linear(net, `${name}.linear1`, normed(net, `${name}.norm2`, value)).map(gelu);
        return plus(value, linear(net, `${name}.linear2`, hidden));
      });
    }
    const seen = attention(net, "attention", queries.map(key), points.map((point) => key(point[0])), values);
    return queries.map((x, i) => normal(perceptron(net, "decoder", [x, ...seen[i]])));
  }

  // ---- The page.

  const figure = document.getElementById("fig-neural-live");
  const { element, button } = live;
  const group = live.group("neural", "points of a curve, and what Bayes' rule and two networks say of the rest of it");
  if (!globalThis.neuralWeights) {
    group.append(element("p", { textContent: "The weights are not here: mlcore run cnp-gp --profile record "
      + "makes them, and attentive-cnp-small-gp." }));
    figure.prepend(group);
    return;
  }
  const NETS = Object.fromEntries(Object.entries(globalThis.neuralWeights).map(([name, net]) => [name, unpacked(net)]));
  const RULES = { bayes, pooled, attentive };
  let points = [], chosen = 0, curve = null;
  globalThis.neural = {
    points: () => points,
    answers: (rule, x) => RULES[rule](points, x),
  };

  const said = live.spoken();
  const keys = element("p", { className: "keys", id: "neural-keys", textContent:
    "Press an empty place for a new point, drag one to move it. With the keyboard, in a panel: the arrows move the marked "
    + "point (with Shift by less), N marks the next one, Enter adds one, Delete removes the marked one." });
  const style = (name) => getComputedStyle(group).getPropertyValue(name).trim();

  class Panel {
    constructor(rule) {
      this.rule = rule;
      this.canvas = element("canvas", { width: 720, height: 540, tabIndex: 0 });
      this.canvas.setAttribute("role", "application");
      this.canvas.setAttribute("aria-label", `${TITLES[rule]}: a mean and a band of two standard deviations`);
      this.canvas.setAttribute("aria-describedby", keys.id);
      this.box = element("div", { className: "panel" }, element("strong", { textContent: TITLES[rule] }), this.canvas);
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
      if (near >= 0) chosen = near;
      else if (!add(this.plane.at(event))) return false;
      refresh();
      return true;
    }

    paint() {
      const context = this.canvas.getContext("2d"), { width, height } = this.canvas;
      const { pixels } = this.plane;
      const ink = style("--ink") || "#222", paper = style("--paper") || "#fff", edge = style("--edge") || "#666";
      const answers = RULES[this.rule](points, grid), colour = COLOURS[this.rule];
      const path = (xs, ys) => xs.forEach((x, i) => context[i ? "lineTo" : "moveTo"](...pixels([x, ys[i]])));
      const line = (xs, ys, strokeStyle, lineWidth, dashes = []) => {
        context.beginPath();
        path(xs, ys);
        Object.assign(context, { strokeStyle, lineWidth });
        context.setLineDash(dashes);
        context.stroke();
        context.setLineDash([]);
      };
      context.clearRect(0, 0, width, height);
      const [upper, lower] = [1, -1].map((side) => answers.map(({ mean, scale }) => mean + 2 * side * scale));
      context.beginPath();
      path([...grid, ...[...grid].reverse()], [...upper, ...lower.reverse()]);
      Object.assign(context, { fillStyle: colour, globalAlpha: 0.25 });
      context.fill();
      context.globalAlpha = 1;
      line([-X, X], [0, 0], edge, 1, [3, 6]);
      if (curve) line(grid, curve, edge, 3, [10, 8]);
      line(grid, answers.map(({ mean }) => mean), colour, 5);
      points.forEach((point, i) => live.dot(context, pixels(point), ink, paper, i === chosen));
    }
  }

  const dragging = () => panels.some((panel) => panel.held());

  function add(point) {
    if (points.length === MOST) return false;
    chosen = points.push(point) - 1;
    return true;
  }

  function moveTo(point) {
    if (!points.length) return;
    points[chosen] = point;
    curve = null; // the points are no longer those of any curve
    refresh();
  }

  function remove() {
    points.splice(chosen, 1);
    chosen = Math.max(chosen - 1, 0);
    refresh();
  }

  // A curve of the kind that the network trained on, at the places of the grid.
  function newCurve() {
    const length = 0.1 + 0.5 * Math.random(), scale = 0.1 + 0.9 * Math.random();
    const z = grid.map(() => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
    curve = cholesky(covariance(grid, length, scale)).map((row) => row.reduce((sum, l, k) => sum + l * z[k], 0));
    points = [];
    for (let i = 0; i < 3; i++) another();
  }

  function another() {
    const i = Math.floor(grid.length * Math.random());
    if (curve) add([grid[i], curve[i]]);
    refresh();
  }

  function reset() {
    curve = null;
    points = [[-1.5, 0.6], [-0.7, -0.8], [-0.3, -0.4], [0.9, 0.7]];
    chosen = 0;
    refresh();
  }

  function key(event, plane) {
    if (event.ctrlKey || event.altKey || event.metaKey) return false;
    const moved = points.length ? plane.moved(points[chosen], event, 0.1) : null;
    if (moved) moveTo(moved);
    else if (event.key.toLowerCase() === "n" && points.length) {
      chosen = (chosen + 1) % points.length;
      refresh();
    } else if (event.key === "Enter") {
      add([0, 0]);
      refresh();
    } else if (["Delete", "Backspace"].includes(event.key) && points.length) remove();
    else return false;
    return true;
  }

  const refresh = live.onceAFrame(() => {
    panels.forEach((panel) => panel.paint());
    more.disabled = !curve || points.length === MOST;
    if (dragging()) return; // a screen reader would speak at every move
    const wide = (rule) => {
      const scales = RULES[rule](points, grid).map(({ scale }) => Math.log(scale));
      return Math.exp(scales.reduce((sum, value) => sum + value, 0) / scales.length);
    };
    const [exact, mean, attends] = Object.keys(RULES).map(wide), times = (ours) => `${(ours / exact).toFixed(1)} times as much`;
    said.textContent = `${points.length} point${points.length === 1 ? "" : "s"}. Standard deviation over the whole line, a geometric `
      + `mean: Bayes' rule ${exact.toFixed(2)}; the mean of points ${times(mean)}, attention ${times(attends)}.`;
  });

  const panels = Object.keys(RULES).map((rule) => new Panel(rule));
  const more = button("One more point of it", another);
  group.append(
    element("div", { className: "panels" }, ...panels.map((panel) => panel.box)),
    said,
    element("div", { className: "controls" },
      button("New curve", newCurve), more, button("Remove the marked point", () => { if (points.length) remove(); }),
      button("Reset", reset)),
    keys);
  live.show(figure, group, refresh);
  reset();
})();
