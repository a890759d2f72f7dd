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
