"use strict";
// Draw an alphabet that does not exist: a prototypical network reads it (Snell, Swersky and Zemel, 2017).
// The network is that of protonet.js.

(() => {
  // All but SMALL in pixels of Omniglot's own 105. benchmarks/invented.py makes its pictures in the same way.
  const SIDE = 105, SMALL = 28;
  const PEN = 2.5; // half the width of a stroke
  const MIDDLE = 51; // where Omniglot's drawings have their middle, on average
  const LONGER = 64; // the longer side of a drawing, without the width of the pen
  const ZOOM = 3; // how far a small drawing is enlarged; a dot stays a dot
  const WAYS = 5;

  // ---- From strokes, [[x, y, x, y, …], …], to the picture that the network sees.

  function placed(strokes) {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (const stroke of strokes) {
      stroke.forEach((value, i) => {
        low[i % 2] = Math.min(low[i % 2], value);
        high[i % 2] = Math.max(high[i % 2], value);
      });
    }
    const longer = Math.max(high[0] - low[0], high[1] - low[1], 1e-9);
    const zoom = Math.min(ZOOM, LONGER / longer);
    return strokes.map((stroke) =>
      stroke.map((value, i) => MIDDLE + zoom * (value - (low[i % 2] + high[i % 2]) / 2)));
  }

  function trace(ink, ax, ay, bx, by) {
    const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
    const left = Math.max(Math.floor(Math.min(ax, bx) - PEN), 0), right = Math.min(Math.ceil(Math.max(ax, bx) + PEN), SIDE);
    const top = Math.max(Math.floor(Math.min(ay, by) - PEN), 0), bottom = Math.min(Math.ceil(Math.max(ay, by) + PEN), SIDE);
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const x = column + 0.5 - ax, y = row + 0.5 - ay;
        const along = length > 0 ? Math.min(Math.max((x * dx + y * dy) / length, 0), 1) : 0;
        const missX = x - along * dx, missY = y - along * dy;
        if (missX * missX + missY * missY <= PEN * PEN) ink[row * SIDE + column] = 255;
      }
    }
  }

  // Pillow's Lanczos filter for bytes, to the last bit: weights are whole numbers of 2^-22.
  const TAPS = Array.from({ length: SMALL }, (_, at) => {
    const scale = SIDE / SMALL, centre = (at + 0.5) * scale, support = 3 * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), SIDE);
    const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
    const weights = [];
    for (let i = first; i < last; i++) {
      const x = (i - centre + 0.5) / scale;
      weights.push(x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0);
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w < 0 ? -0.5 : 0.5) + (w / sum) * 2 ** 22)) };
  });

  // Each row of the image becomes SMALL wide, and a column of the result: twice is both directions.
  function narrowed(image, rows) {
    const result = new Uint8Array(SMALL * rows);
    for (let row = 0; row < rows; row++) {
      TAPS.forEach(({ first, weights }, at) => {
        let sum = 2 ** 21;
        weights.forEach((weight, i) => { sum += weight * image[row * SIDE + first + i]; });
        result[at * rows + row] = Math.min(Math.max(Math.floor(sum / 2 ** 22), 0), 255);
      });
    }
    return result;
  }

  function picture(strokes) {
    const ink = new Uint8Array(SIDE * SIDE);
    for (const line of placed(strokes)) {
      if (line.length === 2) trace(ink, line[0], line[1], line[0], line[1]);
      for (let i = 0; i + 3 < line.length; i += 2) trace(ink, line[i], line[i + 1], line[i + 2], line[i + 3]);
    }
    return narrowed(narrowed(ink, SIDE), SMALL);
  }

  // Five symbols of our own, each drawn twice.
  const EXAMPLE = [
    [
      [[48,45,57,47,65,51,71,56,74,63,74,70,71,76,65,81,56,83,46,83,36,80,28,75,24,68,23,61,26,55,32,50,41,46,50,46], [43,42,43,37,42,33,41,27,41,21,41,15,39,11], [48,25,55,23,59,21,64,19,71,17,76,15,80,14]],
      [[57,53,65,54,72,57,77,62,80,68,79,74,76,80,70,84,62,85,53,84,44,81,37,75,32,69,31,63,34,57,41,54,49,53,59,53], [48,51,53,45,52,39,47,34,50,30,53,24,48,17], [50,32,55,30,60,29,65,28,69,27,74,26,79,24]],
    ],
    [
      [[27,10,27,21,26,33,26,48,24,64,23,78,35,76,47,75,58,77,70,80,82,81], [47,32,48,25,51,20,55,18,60,17,66,16,72,14,77,14,81,17,83,24,85,31,85,37]],
      [[30,34,28,45,27,55,26,65,27,74,28,83,40,83,51,82,61,82,70,83,79,84], [39,44,40,39,43,35,46,32,50,29,55,28,60,28,66,29,71,31,76,35,78,39,78,43]],
    ],
    [
      [[38,63,31,59,26,54,23,48,24,41,27,35,34,29,42,24,51,20,61,19,71,20,79,24,86,30,90,37,91,44,89,52,84,59,77,64], [54,42,54,50,55,58,55,65,55,73,56,82,56,89]],
      [[27,67,17,61,10,53,7,44,7,35,11,26,19,18,29,12,42,8,55,7,68,10,79,15,88,23,93,33,95,43,93,53,87,62,77,68], [52,48,53,56,53,63,53,70,53,76,52,84,52,92]],
    ],
    [
      [[23,24,28,36,34,48,39,59,45,70,50,81,57,69,62,59,68,48,74,38,80,27], [54,31,52,38,49,43,45,42,43,38,42,32,43,28,45,26,48,27,51,28,53,29,54,32]],
      [[26,18,28,31,32,45,38,58,44,70,47,82,55,69,64,57,76,44,88,32,98,21], [63,29,60,36,54,40,48,40,44,37,43,30,45,23,50,18,56,16,61,19,64,25,62,32]],
    ],
    [
      [[17,45,21,51,25,56,29,57,33,54,36,48,40,41,43,34,47,30,50,30,54,33,58,39,62,46,66,51,70,54,73,52,77,47,80,39], [28,77,33,76,43,74,53,74,58,73,67,72,79,72], [51,63,51,68,52,73,52,76,51,80,53,85,52,90]],
      [[18,32,24,40,28,46,32,47,35,43,37,36,38,27,40,18,43,13,47,13,53,18,59,26,65,34,70,42,74,45,77,43,79,37,80,28], [31,75,39,72,48,71,58,73,68,73,76,70,83,68], [56,52,58,57,60,63,62,70,63,76,64,82,66,87]],
    ],
  ];

  // ---- The page.

  const figure = document.getElementById("fig-alphabet");
  const { trained, embed, compare } = protonet;
  globalThis.alphabet = { picture, embed, compare, EXAMPLE };

  const { element, button } = live;
  const KEYS = "With the keyboard: in a field, the arrows move the pen (with Shift by less), Space puts it down and lifts it, "
    + "Backspace takes back a stroke, Delete clears the field.";
  const group = live.group("alphabet", "draw five symbols, then one of them again, and a network names it");

  if (!trained) {
    group.append(element("p", { textContent: protonet.MISSING }));
    figure.before(group);
    return;
  }

  const said = live.spoken();
  const keys = element("p", { className: "keys", id: "alphabet-keys", textContent: KEYS });
  const asSeen = element("input", { type: "checkbox" });
  const history = []; // the fields of all strokes, so that the last one can be taken back wherever it was

  class Field {
    constructor(number) {
      this.number = number; // 0 to 4; 5 is the one drawn again
      this.name = number < WAYS ? `Symbol ${number + 1}` : "Again";
      this.strokes = [];
      this.pen = [SIDE / 2, SIDE / 2];
      this.down = false; // by the keyboard
      this.pointer = null;
      this.canvas = element("canvas", { width: 3 * SIDE, height: 3 * SIDE, tabIndex: 0 });
      this.canvas.setAttribute("role", "application");
      this.canvas.setAttribute("aria-describedby", keys.id);
      this.fill = element("span");
      this.numbers = element("div", { className: "numbers" });
      this.box = element("div", { className: number < WAYS ? "field" : "field again" },
        element("span", { className: "name", textContent: this.name }), this.canvas);
      if (number < WAYS) this.box.append(element("div", { className: "bar" }, this.fill));
      this.box.append(this.numbers);
      for (const [type, act] of Object.entries(this.handlers())) this.canvas.addEventListener(type, act);
      this.changed();
    }

    handlers() {
      const end = (event) => {
        if (event.pointerId !== this.pointer) return;
        this.pointer = null;
        refresh();
      };
      return {
        pointerdown: (event) => {
          if (this.pointer !== null || event.button > 0) return;
          event.preventDefault();
          this.canvas.focus({ preventScroll: true });
          this.pointer = event.pointerId;
          this.canvas.setPointerCapture(event.pointerId);
          this.down = false;
          this.begin(this.at(event));
        },
        pointermove: (event) => {
          if (event.pointerId !== this.pointer) return;
          const all = event.getCoalescedEvents?.() ?? [];
          for (const each of all.length ? all : [event]) this.extend(this.at(each));
        },
        pointerup: end,
        pointercancel: end,
        lostpointercapture: end,
        keydown: (event) => { if (this.key(event)) event.preventDefault(); },
        focus: () => this.paint(),
        blur: () => { this.down = false; refresh(); },
      };
    }

    at(event) {
      const box = this.canvas.getBoundingClientRect();
      const inside = (value) => Math.min(Math.max(value * SIDE, 0), SIDE);
      return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
    }

    begin(point) {
      this.pen = point;
      this.strokes.push([...point]);
      history.push(this);
      this.changed();
    }

    extend(point) {
      const stroke = this.strokes.at(-1);
      if (Math.hypot(point[0] - stroke.at(-2), point[1] - stroke.at(-1)) < 0.5) return;
      this.pen = point;
      stroke.push(...point);
      this.changed();
    }

    key(event) {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.ctrlKey || event.altKey || event.metaKey) return false;
      if (move) {
        const step = event.shiftKey ? 1 : 5;
        const point = this.pen.map((value, i) => Math.min(Math.max(value + step * move[i], 0), SIDE));
        if (this.down) this.extend(point);
        this.pen = point;
        this.paint();
      } else if (event.key === " ") {
        this.down = !this.down;
        if (this.down) this.begin([...this.pen]);
        refresh();
      } else if (event.key === "Backspace") this.undo();
      else if (event.key === "Delete") this.clear();
      else return false;
      return true;
    }

    undo() {
      if (!this.strokes.length) return;
      this.strokes.pop();
      history.splice(history.lastIndexOf(this), 1);
      this.stop();
    }

    clear() {
      this.strokes = [];
      for (let i = history.length; i--;) if (history[i] === this) history.splice(i, 1);
      this.stop();
    }

    show(strokes) {
      this.clear();
      this.strokes = strokes.map((stroke) => [...stroke]);
      strokes.forEach(() => history.push(this));
      this.changed();
    }

    stop() {
      this.down = false;
      this.pointer = null;
      this.changed();
    }

    changed() {
      this.pixels = this.z = null;
      const n = this.strokes.length;
      this.canvas.setAttribute("aria-label",
        `${this.name}, ${n ? `${n} stroke${n > 1 ? "s" : ""}` : "an empty field to draw in"}`);
      refresh();
    }

    seen() {
      return (this.pixels ??= picture(this.strokes));
    }

    embedded() {
      return (this.z ??= embed(this.seen()));
    }

    paint() {
      const context = this.canvas.getContext("2d"), scale = this.canvas.width / SIDE;
      const style = getComputedStyle(group);
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      context.fillStyle = context.strokeStyle = style.getPropertyValue("--ink").trim() || "#222";
      if (asSeen.checked && this.strokes.length) return this.paintPixels(context);
      context.scale(scale, scale);
      context.lineWidth = 2 * PEN;
      context.lineCap = context.lineJoin = "round";
      for (const stroke of this.strokes) {
        context.beginPath();
        context.moveTo(stroke[0], stroke[1]);
        for (let i = 0; i < stroke.length; i += 2) context.lineTo(stroke[i], stroke[i + 1]);
        context.stroke();
      }
      if (document.activeElement === this.canvas && this.pointer === null) {
        context.lineWidth = 1;
        context.strokeStyle = style.getPropertyValue("--mark").trim() || "#0f5fce";
        context.beginPath();
        context.arc(...this.pen, this.down ? 2 : 5, 0, 2 * Math.PI);
        context.stroke();
      }
      return undefined;
    }

    paintPixels(context) {
      const size = this.canvas.width / SMALL;
      this.seen().forEach((value, i) => {
        context.globalAlpha = value / 255;
        context.fillRect((i % SMALL) * size, Math.floor(i / SMALL) * size, size, size);
      });
      context.globalAlpha = 1;
    }
  }

  const percent = (p) => `${(100 * p).toFixed(1)}\u00a0%`;

  function verdict(drawn, again) {
    if (drawn.length < 2 || !again.strokes.length) {
      return "Draw a symbol in each of the five fields, then draw one of them again in the sixth. Or press Example.";
    }
    const { distances, probabilities } = compare(drawn.map((field) => field.embedded()), again.embedded());
    const order = drawn.map((_, i) => i).sort((a, b) => distances[a] - distances[b]);
    drawn.forEach((field, i) => {
      field.fill.style.width = `${100 * probabilities[i]}%`;
      field.box.classList.toggle("nearest", i === order[0]);
      const words = [percent(probabilities[i]), `d = ${distances[i].toFixed(1)}`, i === order[0] ? "nearest" : ""];
      field.numbers.replaceChildren(...words.map((textContent) => element("div", { textContent })));
    });
    const [first, second] = order;
    return `This is ${drawn[first].name.toLowerCase()}, says the network: ${percent(probabilities[first])}, `
      + `at a squared distance of ${distances[first].toFixed(1)}. Next is ${drawn[second].name.toLowerCase()}, at `
      + `${distances[second].toFixed(1)}.${drawn.length < WAYS ? ` It chose among ${drawn.length} symbols.` : ""}`;
  }

  const refresh = live.onceAFrame(() => {
    fields.forEach((field) => field.paint());
    // The network, and the words that a screen reader speaks, wait until the pen is lifted.
    if (fields.some((field) => field.down || field.pointer !== null)) return;
    for (const field of fields) {
      field.fill.style.width = 0;
      field.box.classList.remove("nearest");
      field.numbers.replaceChildren();
    }
    const words = verdict(fields.slice(0, WAYS).filter((field) => field.strokes.length), fields[WAYS]);
    if (said.textContent !== words) said.textContent = words;
  });

  const fields = Array.from({ length: WAYS + 1 }, (_, number) => new Field(number));
  globalThis.alphabet.fields = fields;

  let examples = 0;
  const controls = element("div", { className: "controls" },
    button("Example", () => {
      EXAMPLE.forEach(([once], i) => fields[i].show(once));
      fields[WAYS].show(EXAMPLE[[2, 0, 4, 1, 3][examples++ % WAYS]][1]);
    }),
    button("Undo stroke", () => history.at(-1)?.undo()),
    button("Clear the sixth", () => fields[WAYS].clear()),
    button("Clear all", () => fields.forEach((field) => field.clear())),
    element("label", {}, asSeen, "as the network sees them"));
  asSeen.addEventListener("change", refresh);

  group.append(element("div", { className: "fields" }, ...fields.map((field) => field.box)), said, controls, keys);
  live.show(figure, group, refresh);
  refresh();
})();
