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
