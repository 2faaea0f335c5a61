// Plays the films in the .film around it. Films come from models and their users: their text is only ever set as text.
(() => {
  "use strict";
  const root = document.currentScript.parentElement;
  const films = JSON.parse(root.querySelector(".film-data").textContent);
  const part = (name) => root.querySelector(`.film-${name}`);
  const NATS = 32; // a nat has so many steps of entropy in a film
  const RUN_MS = 9000; // about as long as a film should run
  const SLOWEST_MS = 800;
  const QUICKEST_MS = 120;
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  let film; // the one on show, developed
  let at = 0; // its frame on show
  let touched = false; // the reader has moved or played it
  let timer = null; // set while it plays
  let looked = null; // the position that is explained below the stage

  // ---- from the file to frames

  function numbers(text, bytes) {
    const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(raw.buffer);
    return Array.from({ length: raw.length / bytes }, (_, i) =>
      bytes === 2 ? view.getUint16(2 * i, true) : view.getUint32(4 * i, true));
  }

  function bits(text, length) {
    const raw = atob(text);
    return Array.from({ length }, (_, i) => Boolean(raw.charCodeAt(i >> 3) & (1 << (i & 7))));
  }

  // Per canvas: its noise, each step, and once more settled. `was`: what a position was first accepted as, if that is not
  // what it holds now; `flash`: positions that were accepted as another token than the last time.
  function develop(file) {
    const length = file.canvas_length;
    const frames = [];
    file.film.forEach((canvas, c) => {
      const mine = Math.max(0, Math.min(length, file.tokens - c * length)); // the others are thrown away
      const steps = canvas.steps.map((step) => ({
        tokens: numbers(step.tokens, file.token_bytes),
        argmax: numbers(step.argmax, file.token_bytes),
        accepted: bits(step.accepted, length),
        entropy: numbers(step.entropy, 2).map((value) => value / NATS),
      }));
      const last = steps[steps.length - 1];
      const first = [], latest = [];
      const add = (step, shown, settled) => {
        const frame = { index: frames.length, canvas: c, step, steps: steps.length, settled, ...shown, was: new Map(), flash: new Set() };
        frame.tokens.forEach((token, i) => {
          if (!(settled || shown.accepted[i])) return;
          if (first[i] === undefined && !settled) first[i] = token;
          if (i < mine && first[i] !== undefined && first[i] !== token) frame.was.set(i, first[i]);
          if (i < mine && latest[i] !== undefined && latest[i] !== token) frame.flash.add(i);
          if (!settled || latest[i] !== undefined) latest[i] = token;
        });
        frame.share = shown.accepted.filter(Boolean).length / length;
        frame.mean = shown.entropy && shown.entropy.reduce((sum, value) => sum + value, 0) / length;
        frame.before = frames.length && frames[frames.length - 1].canvas === c ? frames[frames.length - 1] : null;
        frames.push(frame);
      };
      const noise = numbers(canvas.noise, file.token_bytes);
      add(0, { tokens: noise, argmax: noise, accepted: Array(length).fill(false), entropy: null }, false);
      steps.forEach((step, number) => add(number + 1, step, false));
      add(steps.length, { ...last, tokens: last.argmax }, true);
    });
    const entropies = frames.flatMap((frame) => frame.entropy || []);
    const most = entropies.reduce((one, other) => Math.max(one, other), 0);
    return { file, frames, length, most: Math.max(1, most), special: new Set(file.special) };
  }

  // ---- the stage: a cell per position, as wide as the token that it settles as, so that nothing moves while it plays

  const glyphs = (text) => text.replace(/\r?\n/g, "↵").replace(/\t/g, "⇥");
  const heat = (entropy) => Math.sqrt(Math.min(1, entropy / film.most)); // the eye wants to tell 0 from 0.1

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function fit(token, room) {
    if (room < 2 && film.special.has(token)) return "·";
    const letters = [...glyphs(film.file.pieces[token])];
    if (letters.length <= room) return letters.join("");
    return room < 2 ? "…" : `${letters.slice(0, room - 1).join("")}…`;
  }

  function build() {
    const stage = part("stage");
    const sheet = make("div", "film-sheet");
    stage.replaceChildren(sheet);
    film.cells = [];
    let columns = 0, widest = 0;
    const last = film.frames.filter((frame) => frame.settled);
    last.forEach((frame) => {
      const cells = frame.tokens.map((token, i) => {
        const position = frame.canvas * film.length + i;
        const cut = position >= film.file.tokens;
        if (position === film.file.tokens && position > 0) sheet.append(make("span", "film-end"));
        const text = cut ? "·" : glyphs(film.file.pieces[token]);
        const cell = make("span", cut ? "film-cell film-cut" : "film-cell");
        cell.dataset.position = position;
        cell.append(make("span", "film-size", text), make("span", "film-now"), make("span", "film-was"));
        sheet.append(cell);
        columns += cut ? 0 : [...text].length;
        widest = Math.max(widest, columns);
        const lines = cut ? 0 : film.file.pieces[token].split("\n").length - 1;
        for (let line = 0; line < lines; line++) sheet.append(document.createElement("br"));
        if (lines) columns = 0;
        return { cell, now: cell.children[1], was: cell.children[2], room: Math.max(1, [...text].length), cut };
      });
      film.cells.push({ cells, shown: null });
      if (frame.canvas + 1 < last.length) sheet.append(make("span", "film-edge"));
    });
    stage.classList.toggle("film-prose", widest > 30);
    stage.style.setProperty("--film-columns", Math.min(48, Math.max(8, widest)));
  }

  function drawCanvas(c, frame) {
    const canvas = film.cells[c];
    const best = part("show").value === "best";
    const current = frame === film.frames[at]; // or one of before, which is text now
    const key = frame ? `${frame.index} ${current} ${best}` : "hidden";
    if (canvas.shown === key) return;
    canvas.shown = key;
    const flashing = [];
    canvas.cells.forEach((place, i) => {
      const { cell, now, was, room } = place;
      const token = frame && (best && frame.step ? frame.argmax[i] : frame.tokens[i]);
      const before = frame && frame.was.get(i);
      const drawn = !frame ? "film-hidden" : [
        frame.settled || frame.accepted[i] ? "film-sure" : "",
        !frame.settled && frame.accepted[i] ? "film-kept" : "",
        frame.settled && !current ? "film-done" : "",
        film.special.has(token) ? "film-special" : "",
        film.file.pieces[token].trim() ? "" : "film-blank",
        frame.entropy ? "" : "film-raw",
        before === undefined ? "" : "film-revised",
      ].join(" ");
      cell.classList.remove("film-flash");
      if (current && frame.flash.has(i)) flashing.push(cell);
      if (place.drawn !== drawn) {
        cell.className = `film-cell ${place.cut ? "film-cut" : ""} ${drawn}`;
        place.drawn = drawn;
      }
      if (!frame) return;
      const text = fit(token, room);
      if (now.textContent !== text) now.textContent = text;
      const struck = before === undefined ? "" : fit(before, Math.max(2, room)).trim();
      if (was.textContent !== struck) was.textContent = struck;
      const heated = frame.entropy && current ? heat(frame.entropy[i]).toFixed(3) : "0";
      if (place.heated !== heated) cell.style.setProperty("--heat", (place.heated = heated));
    });
    if (flashing.length) void part("stage").offsetWidth; // so that a flash begins anew
    flashing.forEach((cell) => cell.classList.add("film-flash"));
  }

  // ---- the curves under it

  const SVG = "http://www.w3.org/2000/svg";
  const x = (index) => (film.frames.length > 1 ? (1000 * index) / (film.frames.length - 1) : 0);
  const y = (share) => 94 - 86 * share;

  function curves() {
    const svg = part("curves");
    svg.replaceChildren();
    const shape = (tag, name, attributes) => {
      const element = document.createElementNS(SVG, tag);
      element.setAttribute("class", name);
      Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
      svg.append(element);
      return element;
    };
    const means = film.frames.map((frame) => frame.mean || 0);
    film.hottest = Math.max(...means) || 1;
    const runs = new Map();
    film.frames.forEach((frame, index) => {
      if (!runs.has(frame.canvas)) runs.set(frame.canvas, []);
      runs.get(frame.canvas).push([index, frame]);
    });
    for (const [canvas, run] of runs) {
      if (canvas) shape("line", "film-border", { x1: x(run[0][0] - 0.5), x2: x(run[0][0] - 0.5), y1: 0, y2: 100 });
      const believed = run.filter(([, frame]) => frame.entropy);
      const line = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
      const hot = believed.map(([index, frame]) => [x(index), y(frame.mean / film.hottest)]);
      if (hot.length) {
        const [from, to] = [hot[0][0], hot[hot.length - 1][0]];
        shape("path", "film-heat", { d: `${line(hot)}L${to} ${y(0)}L${from} ${y(0)}Z` });
        shape("path", "film-hot", { d: line(hot) });
      }
      shape("path", "film-share", { d: line(run.map(([index, frame]) => [x(index), y(frame.share)])) });
    }
    film.frames.forEach((frame, index) => {
      if (frame.flash.size) shape("line", "film-tick", { x1: x(index), x2: x(index), y1: 94, y2: 100 });
    });
    film.head = shape("line", "film-head", { y1: 0, y2: 100 });
  }

  // ---- one frame

  const percent = (share) => `${share === 1 ? 100 : Math.min(99, Math.round(100 * share))} %`; // all is all
  const nats = (value) => (value < 0.995 ? value.toFixed(2) : value.toFixed(1));
  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  function corrected(index) {
    const now = film.frames[index];
    return film.frames
      .filter((frame, i) => frame === now || (frame.settled && i < index))
      .reduce((sum, frame) => sum + frame.was.size, 0);
  }

  function stepOf(frame) {
    if (!frame.step) return "noise";
    return frame.settled ? `settled after ${plural(frame.steps, "step")}` : `step ${frame.step} of ${frame.steps}`;
  }

  function draw(index) {
    at = Math.max(0, Math.min(film.frames.length - 1, index));
    const frame = film.frames[at];
    film.cells.forEach((_, c) => {
      const own = film.frames.filter((other) => other.canvas === c);
      drawCanvas(c, c < frame.canvas ? own[own.length - 1] : c === frame.canvas ? frame : null);
    });
    const canvas = `canvas ${frame.canvas + 1} of ${film.file.canvases}`;
    part("canvas").textContent = canvas;
    part("step").textContent = stepOf(frame);
    part("accepted").textContent = percent(frame.share);
    part("entropy").textContent = frame.entropy ? nats(frame.mean) : "–";
    part("corrected").textContent = corrected(at);
    const slider = part("slider");
    slider.value = at;
    slider.setAttribute("aria-valuetext", `${canvas}, ${stepOf(frame)}`);
    const text = frame.tokens.map((token) => film.file.pieces[token]).join("");
    part("stage").setAttribute("aria-label", `The ${canvas}, ${stepOf(frame)}: ${percent(frame.share)} accepted` +
      (frame.entropy ? `, mean entropy ${nats(frame.mean)} nats` : "") + (frame.settled ? `. It reads: ${text}` : ""));
    film.head.setAttribute("x1", x(at));
    film.head.setAttribute("x2", x(at));
    root.dataset.frame = at;
    root.dataset.frames = film.frames.length;
    follow(frame);
    look(looked);
  }

  // Long answers scroll inside the stage, which keeps the canvas at work in sight.
  function follow(frame) {
    const stage = part("stage");
    if (stage.scrollHeight <= stage.clientHeight || film.followed === frame.canvas) return;
    film.followed = frame.canvas;
    stage.scrollTop = film.cells[frame.canvas].cells[0].cell.offsetTop - 24;
  }

  // ---- one position

  const quoted = (token) => (film.special.has(token) ? film.file.pieces[token] : `“${glyphs(film.file.pieces[token])}”`);

  function look(position) {
    const box = part("look");
    root.querySelectorAll(".film-looked").forEach((cell) => cell.classList.remove("film-looked"));
    const [c, i] = [Math.floor(position / film.length), position % film.length];
    looked = position !== null && film.cells[c] && film.cells[c].cells[i] ? position : null;
    box.classList.toggle("film-idle", looked === null);
    if (looked === null) {
      box.textContent = "Point at a token, or tap it, to see what it went through.";
      return;
    }
    film.cells[c].cells[i].cell.classList.add("film-looked");
    box.replaceChildren(make("b", "", `Position ${position + 1}`));
    film.frames.filter((frame) => frame.canvas === c).forEach((frame) => {
      const kept = frame.accepted[i] && !frame.settled;
      const said = make("span", "film-moment");
      said.classList.toggle("film-here", frame === film.frames[at]);
      said.style.setProperty("--heat", frame.entropy ? heat(frame.entropy[i]).toFixed(3) : 0);
      said.append(make("i", "", frame.settled ? "settled" : frame.step || "noise"), make("span", "", quoted(frame.tokens[i])));
      if (frame.entropy && !frame.settled) said.append(make("small", "", `${nats(frame.entropy[i])}${kept ? ", accepted" : ""}`));
      said.classList.toggle("film-kept", kept);
      box.append(said);
    });
    if (position >= film.file.tokens) box.append(make("span", "film-note", "past the end of the answer: thrown away"));
  }

  // ---- playing

  const speed = () => Number(part("speed").value);
  const pace = () => Math.min(SLOWEST_MS, Math.max(QUICKEST_MS, RUN_MS / film.frames.length)) / speed();

  function tell() {
    const playing = timer !== null;
    root.dataset.playing = playing;
    part("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    part("play").classList.toggle("film-playing", playing);
  }

  function pause() {
    clearTimeout(timer);
    timer = null;
    tell();
  }

  function tick() {
    if (at + 1 >= film.frames.length) return pause();
    draw(at + 1);
    const rest = film.frames[at].settled || !film.frames[at].step ? 1.6 : 1; // where a canvas begins and ends
    timer = setTimeout(tick, pace() * rest);
  }

  function play() {
    if (!touched || at + 1 >= film.frames.length) draw(0);
    touched = true;
    timer = setTimeout(tick, pace());
    tell();
  }

  function seek(index) {
    touched = true;
    pause();
    draw(index);
  }

  // ---- one film

  // Where to begin: a picture in which some of the text is there and some is not.
  function poster() {
    const far = (frame) => Math.abs(frame.share - 0.6) + (frame.settled || !frame.step ? 9 : 0) + frame.canvas * 0.2;
    return film.frames.reduce((best, frame, index) => (far(frame) < far(film.frames[best]) ? index : best), 0);
  }

  function open(number) {
    pause();
    film = develop(films[number]);
    const file = film.file;
    looked = null;
    touched = false;
    root.dataset.film = number;
    part("picks").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", i === number));
    part("prompt").textContent = file.prompt + (file.prompt_cut ? " …" : "");
    part("thinking").textContent = file.thinking || "";
    part("thought").hidden = !file.thinking;
    part("text").textContent = file.text;
    const facts = [
      `row ${file.id}`, plural(file.tokens, "token"), plural(file.canvases, "canvas").replace("canvass", "canvases"),
      plural(file.denoise_steps, "step"), `${(file.tokens / file.denoise_steps).toFixed(1)} tokens a step`,
      `${file.revised_tokens.toLocaleString("en")} corrected`,
    ];
    if (file.film.length < file.canvases) facts.push(`the first ${file.film.length} canvases were filmed`);
    part("facts").replaceChildren(...facts.map((fact) => make("span", "", fact)));
    part("slider").max = film.frames.length - 1;
    part("most").textContent = `unsure: ${nats(film.most)} nats`;
    build();
    curves();
    draw(poster());
  }

  films.forEach((file, number) => {
    const button = make("button", "", file.id);
    button.type = "button";
    button.addEventListener("click", () => open(number));
    part("picks").append(button);
  });
  part("picks").hidden = films.length < 2;
  part("slider").addEventListener("input", () => seek(part("slider").valueAsNumber));
  part("play").addEventListener("click", () => (timer === null ? play() : pause()));
  part("back").addEventListener("click", () => seek(at - 1));
  part("on").addEventListener("click", () => seek(at + 1));
  part("show").addEventListener("change", () => draw(at));
  part("curves").addEventListener("pointerdown", (event) => {
    const box = part("curves").getBoundingClientRect();
    seek(Math.round(((event.clientX - box.left) / box.width) * (film.frames.length - 1)));
  });
  const pointed = (event) => {
    const cell = event.target.closest(".film-cell");
    if (cell && !cell.classList.contains("film-hidden")) look(Number(cell.dataset.position));
  };
  part("stage").addEventListener("pointerover", pointed);
  part("stage").addEventListener("click", pointed);
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const inside = (position) => Math.max(0, Math.min(film.cells.length * film.length - 1, position));
    const keys = {
      ArrowLeft: () => seek(at - 1),
      ArrowRight: () => seek(at + 1),
      Home: () => seek(0),
      End: () => seek(film.frames.length - 1),
      ",": () => look(inside((looked ?? 1) - 1)),
      ".": () => look(inside((looked ?? -1) + 1)),
    };
    if (event.target.tagName !== "BUTTON") keys[" "] = () => (timer === null ? play() : pause());
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  still.addEventListener("change", pause);
  // first the film in which most happens
  const events = (file) => 1000 * file.revised_tokens + file.denoise_steps;
  open(films.reduce((best, file, number) => (events(file) > events(films[best]) ? number : best), 0));
})();
