"use strict";
// What every live figure does alike: elements, buttons, the words for a screen reader, and painting at most once a frame.

globalThis.live = {
  element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  },

  button(textContent, onclick) {
    return live.element("button", { type: "button", textContent, onclick });
  },

  // The group that takes the place of a still.
  group(name, label) {
    const made = live.element("div", { className: `live-figure live-${name}` });
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", `Live figure: ${label}`);
    return made;
  },

  // A paragraph whose new words a screen reader speaks.
  spoken() {
    const made = live.element("p", { className: "said" });
    made.setAttribute("aria-live", "polite");
    return made;
  },

  // Follow one pointer over a canvas. press(event) says whether there was something to hold, move(event) follows it,
  // done() comes when it is let go, and key(event) says whether a key meant anything. Gives a question: is it held now?
  follow(canvas, { press, move, done, key }) {
    let pointer = null;
    const end = (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      done();
    };
    const handlers = {
      pointerdown: (event) => {
        if (pointer !== null || event.button > 0) return;
        event.preventDefault();
        canvas.focus({ preventScroll: true });
        if (!press(event)) return;
        pointer = event.pointerId;
        canvas.setPointerCapture(pointer);
      },
      pointermove: (event) => { if (event.pointerId === pointer) move(event); },
      pointerup: end,
      pointercancel: end,
      lostpointercapture: end,
      keydown: (event) => { if (key(event)) event.preventDefault(); },
    };
    for (const [type, act] of Object.entries(handlers)) canvas.addEventListener(type, act);
    return () => pointer !== null;
  },

  // A plane on a canvas, from -X to X and from -Y to Y.
  plane(canvas, X, Y) {
    const within = (value, most) => Math.min(Math.max(value, -most), most);
    return {
      // Where a pointer is.
      at(event) {
        const box = canvas.getBoundingClientRect();
        return [
          within(((event.clientX - box.left) / box.width) * 2 * X - X, X),
          within(Y - ((event.clientY - box.top) / box.height) * 2 * Y, Y),
        ];
      },

      // Where a place is, in pixels of the canvas.
      pixels: ([x, y]) => [((x + X) / (2 * X)) * canvas.width, ((Y - y) / (2 * Y)) * canvas.height],

      // Which of some points a pointer is on, or -1; a finger needs less aim.
      near(points, event) {
        const [x, y] = this.at(event), far = points.map((p) => Math.hypot((p[0] - x) / X, (p[1] - y) / Y));
        const least = Math.min(...far);
        return least <= (event.pointerType === "touch" ? 0.17 : 0.1) ? far.indexOf(least) : -1;
      },

      // A point that an arrow key moves by a step, with Shift by a tenth of it; null for other keys.
      moved([x, y], event, step) {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        const size = event.shiftKey ? step / 10 : step;
        return way ? [within(x + size * way[0], X), within(y + size * way[1], Y)] : null;
      },
    };
  },

  // A round point at pixels [x, y] of a canvas, with a ring around it if it is marked.
  dot(context, [x, y], ink, paper, marked) {
    context.beginPath();
    context.arc(x, y, 10, 0, 2 * Math.PI);
    Object.assign(context, { fillStyle: ink, strokeStyle: paper, lineWidth: 4 });
    context.fill();
    context.stroke();
    if (!marked) return;
    context.beginPath();
    context.arc(x, y, 19, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: ink, lineWidth: 3 });
    context.stroke();
  },

  // What a script of weights holds: base64, as bytes.
  bytes(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
  },

  onceAFrame(paint) {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; paint(); });
    };
  },

  // Put a group in a figure, and paint it anew when the page turns dark or light.
  show(figure, group, refresh) {
    figure.prepend(group);
    figure.classList.add("is-live");
    new MutationObserver(refresh).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  },
};
