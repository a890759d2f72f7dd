"use strict";
// Five arms, twenty pulls: you, Thompson sampling, UCB1 and RL² in the same bandit with the same luck (Duan et al., 2016).
// The weights of RL² come from bandit-weights.js (book/_ext/live_figures.py).

(() => {
  const ARMS = 5, PULLS = 20, HIDDEN = 64, GAMES = 500; // the recorded run's sizes, and how many games are played at once
  const figure = document.getElementById("fig-bandit-live");
  const { element, button } = live;
  const group = live.group("bandit", "five arms to pull, and three players in the same bandit");
  if (!globalThis.banditWeights) {
    group.append(element("p", { textContent: "The weights are not here: mlcore run rl2-5-arms-20-pulls --profile record "
      + "makes them." }));
    figure.prepend(group);
    return;
  }

  // ---- The network: a GRU with torch's gates, told what it did and what came of it.

  const numbers = Array.from(new Float32Array(live.bytes(globalThis.banditWeights)));
  const linear = (inputs, outputs) => {
    const w = Array.from({ length: outputs }, () => numbers.splice(0, inputs)), b = numbers.splice(0, outputs);
    return (x) => w.map((row, o) => row.reduce((sum, weight, j) => sum + weight * x[j], b[o]));
  };
  const ofInput = linear(ARMS + 2, 3 * HIDDEN), ofState = linear(HIDDEN, 3 * HIDDEN), policy = linear(HIDDEN, ARMS);
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  // The state after one pull, or after none where arm is -1.
  function told(state, arm, reward) {
    const x = ofInput([...Array.from({ length: ARMS }, (_, a) => Number(a === arm)), reward, 0]), h = ofState(state);
    return state.map((old, i) => {
      const reset = sigmoid(x[i] + h[i]), keep = sigmoid(x[HIDDEN + i] + h[HIDDEN + i]);
      const candidate = Math.tanh(x[2 * HIDDEN + i] + reset * h[2 * HIDDEN + i]);
      return candidate + keep * (old - candidate);
    });
  }

  // ---- Players. A score for each arm, from all pulls [arm, reward] so far; the highest is pulled.

  function counts(pulls) {
    const won = Array(ARMS).fill(0), lost = Array(ARMS).fill(0);
    for (const [arm, reward] of pulls) (reward ? won : lost)[arm] += 1;
    return { won, lost };
  }

  // Uniform numbers' j-th smallest of n is a beta variable; counts are whole numbers, so this is the posterior.
  function beta(a, b) {
    return Array.from({ length: a + b - 1 }, Math.random).sort((x, y) => x - y)[a - 1];
  }

  const SCORES = {
    Thompson(pulls) {
      const { won, lost } = counts(pulls);
      return won.map((w, a) => beta(1 + w, 1 + lost[a]));
    },
    UCB1(pulls) {
      const { won, lost } = counts(pulls), all = Math.log(pulls.length + 2 * ARMS);
      return won.map((w, a) => {
        const seen = 2 + w + lost[a];
        return (1 + w) / seen + Math.sqrt((2 * all) / seen);
      });
    },
    "RL²"(pulls) {
      const start = told(Array(HIDDEN).fill(0), -1, 0);
      return policy(pulls.reduce((state, [arm, reward]) => told(state, arm, reward), start));
    },
  };
  const YOU = "You", RIVALS = Object.keys(SCORES);

  function best(scores) {
    const most = Math.max(...scores), ties = scores.flatMap((score, arm) => (score === most ? [arm] : []));
    return ties[Math.floor(Math.random() * ties.length)];
  }

  const bandit = () => ({
    chances: Array.from({ length: ARMS }, Math.random), luck: Array.from({ length: PULLS }, Math.random),
  });
  const pull = ({ chances, luck }, pulls, arm) => pulls.push([arm, Number(luck[pulls.length] < chances[arm])]);
  const total = (pulls) => pulls.reduce((sum, [, reward]) => sum + reward, 0);

  // ---- The page.

  let world, played, over = Object.fromEntries([YOU, ...RIVALS].map((player) => [player, []]));
  globalThis.bandit = { ARMS, PULLS, scores: (player, pulls) => SCORES[player](pulls), state: () => ({ world, played, over }) };

  const said = live.spoken();
  const arms = Array.from({ length: ARMS }, (_, a) => button(`Arm ${a + 1}`, () => choose(a)));
  const shares = arms.map(() => element("span", { className: "share" }));
  const strips = {}, sums = {}, means = {};
  const rows = [YOU, ...RIVALS].map((player) => element("tr", {},
    element("th", { scope: "row", textContent: player }),
    element("td", {}, (strips[player] = element("span", { className: "strip" }))),
    (sums[player] = element("td")), (means[player] = element("td"))));
  const board = element("table", { className: "board" },
    element("thead", {}, element("tr", {}, ...["Player", "Arms pulled, filled where they paid", "Reward", "Mean of all games"].map(
      (textContent) => element("th", { scope: "col", textContent })))),
    element("tbody", {}, ...rows));

  function begin() {
    world = bandit();
    played = Object.fromEntries([YOU, ...RIVALS].map((player) => [player, []]));
    paint();
    said.textContent = `${ARMS} arms, ${PULLS} pulls. Each arm pays with a chance of its own. Pull one.`;
  }

  // You pull, and so do the others, each in a copy of your bandit.
  function choose(arm) {
    if (played[YOU].length === PULLS) return;
    pull(world, played[YOU], arm);
    for (const player of RIVALS) pull(world, played[player], best(SCORES[player](played[player])));
    const left = PULLS - played[YOU].length, paid = played[YOU].at(-1)[1] ? "paid" : "paid nothing";
    if (!left) for (const [player, pulls] of Object.entries(played)) over[player].push(total(pulls));
    paint();
    const ends = `So far: ${[YOU, ...RIVALS].map((player) => `${player} ${total(played[player])}`).join(", ")}.`;
    said.textContent = `Arm ${arm + 1} ${paid}. ${left ? `${left} pull${left === 1 ? "" : "s"} left.` : "The end; the chances are shown."} ${ends}`;
  }

  // Many games without you.
  function simulate() {
    for (let game = 0; game < GAMES; game++) {
      const unseen = bandit();
      for (const player of RIVALS) {
        const pulls = [];
        while (pulls.length < PULLS) pull(unseen, pulls, best(SCORES[player](pulls)));
        over[player].push(total(pulls));
      }
    }
    paint();
    said.textContent = `After ${GAMES} more games without you: ${RIVALS.map((player) => `${player} ${mean(over[player])}`).join(", ")}.`;
  }

  // The mean with a 95 % interval over games.
  function mean(rewards) {
    const n = rewards.length;
    if (!n) return "–";
    const middle = rewards.reduce((sum, reward) => sum + reward, 0) / n;
    const spread = Math.sqrt(rewards.reduce((sum, reward) => sum + (reward - middle) ** 2, 0) / (n - 1));
    return n < 2 ? middle.toFixed(1) : `${middle.toFixed(2)} ± ${((1.96 * spread) / Math.sqrt(n)).toFixed(2)}`;
  }

  function paint() {
    const done = played[YOU].length === PULLS, { won, lost } = counts(played[YOU]);
    arms.forEach((arm, a) => { arm.disabled = done; });
    shares.forEach((share, a) => {
      share.textContent = `${won[a]} of ${won[a] + lost[a]}${done ? `; pays ${(100 * world.chances[a]).toFixed(0)}\u00a0%` : ""}`;
    });
    for (const [player, pulls] of Object.entries(played)) {
      strips[player].replaceChildren(...Array.from({ length: PULLS }, (_, t) => {
        const [arm, reward] = pulls[t] ?? [-1, 0], cell = element("span", { className: reward ? "paid" : "" });
        cell.textContent = arm < 0 ? "\u00a0" : String(arm + 1);
        return cell;
      }));
      sums[player].textContent = total(pulls);
      means[player].textContent = mean(over[player]);
    }
  }

  group.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const arm = Number(event.key) - 1;
    if (arm >= 0 && arm < ARMS) choose(arm);
  });
  group.append(
    element("div", { className: "arms" }, ...arms.map((arm, a) => element("div", { className: "arm" }, arm, shares[a]))),
    said, board,
    element("div", { className: "controls" },
      button("New bandit", begin), button(`${GAMES} games without you`, simulate)));
  live.show(figure, group, () => {}); // drawn by style sheets alone, so nothing is painted anew
  begin();
})();
