"use strict";
// The live page: asks for what is new, and puts it into the charts. page.js has the charts themselves.
{
  const SECOND = 1000;
  const BUSY = ["starting", "running", "evaluating", "reading"];
  const part = (name) => document.getElementById(name);
  const curves = new Map(); // by "number/curve" its points, [x, y]
  const cards = new Map(); // by name, the charts that are shown
  const lines = new Map(); // by number, the line of a run in the table
  let epoch = "", version = 0, charted = -1, status = null, busy = false, timer = 0;

  const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const show = (element, visible) => { if (element.hidden === visible) element.hidden = !visible; };

  function time(seconds) {
    if (seconds === null) return "\u2013";
    if (seconds < 100) return `${Math.round(seconds)} s`;
    return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }
  const since = (run) => (run.written === null ? null : Math.max(0, Date.now() / SECOND - run.written));
  const left = (run) => (run.left === null ? null : Math.max(0, run.left - since(run)));

  // ---- charts ----
  function limits(values, least, margin) { // as in drawing.py
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (low > high) return [0, 1];
    least = Math.max(least, 1e-9 * Math.max(Math.abs(low), Math.abs(high)), 1e-12);
    if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
    return [low - margin * (high - low), high + margin * (high - low)];
  }

  const pointsOf = (line) => curves.get(`${line.run}/${line.curve}`) || [];

  function written(points) { // as data-p, with a semicolon at a gap
    const pieces = [[]];
    for (const [x, y] of points) {
      if (y !== null) pieces.at(-1).push(`${x},${y}`);
      else if (pieces.at(-1).length) pieces.push([]);
    }
    return pieces.filter((piece) => piece.length).map((piece) => piece.join(" ")).join(";");
  }

  function dot(svg, [x, y], kind) {
    const group = document.createElementNS(svg.namespaceURI, "g"), circle = document.createElementNS(svg.namespaceURI, "circle");
    group.setAttribute("class", "dot");
    group.dataset.p = `${x},${y}`;
    circle.setAttribute("class", kind);
    circle.setAttribute("r", "3.4");
    group.append(circle);
    return group;
  }

  function draw(card) {
    const { picture, svg } = card, rounds = [], values = picture.zero ? [0] : [];
    [...svg.querySelectorAll(".plot .series")].forEach((group, n) => {
      const line = picture.lines[n], points = pointsOf(line), path = group.querySelector(".line");
      const known = points.filter((point) => point[1] !== null);
      path.dataset.p = written(points);
      if (!known.length) path.setAttribute("d", "");
      const dots = line.dots && known.length <= picture.most_dots ? known.map((point) => dot(svg, point, line.dots)) : [];
      group.replaceChildren(path, ...dots);
      for (const [x, y] of known) {
        rounds.push(x);
        values.push(y);
      }
    });
    const ends = limits(values, picture.span, 0.06);
    card.update(limits(rounds, 1, 0.03), picture.zero ? [0, ends[1]] : ends);
  }

  function card(picture) {
    const svg = document.importNode(new DOMParser().parseFromString(picture.svg, "text/html").querySelector("svg"), true);
    const element = make("figure", { className: "card" }, make("h3", { textContent: picture.title }), svg);
    const made = { picture, element, svg, update: chart(svg), text: JSON.stringify(picture) };
    return made;
  }

  async function recharted(now) {
    const pictures = await ask("/charts");
    if (pictures === null) return;
    charted = now;
    const kept = new Map(cards);
    cards.clear();
    for (const picture of pictures) {
      const before = kept.get(picture.title);
      const own = before && before.text === JSON.stringify(picture) ? before : card(picture);
      cards.set(picture.title, own);
    }
    part("charts").replaceChildren(...[...cards.values()].map((own) => own.element));
    redraw(() => true);
  }

  function redraw(changed) {
    for (const own of cards.values()) {
      if (own.picture.lines.length && own.picture.lines.some((line) => changed(`${line.run}/${line.curve}`))) draw(own);
    }
  }

  // ---- words ----
  function facts(run) {
    const rounds = run.rounds ? `${run.round} of ${run.rounds}` : `${run.round}`;
    const own = [
      ["Round", rounds],
      ["Time left", left(run) === null ? "\u2013" : `about ${time(left(run))}`],
      ["Training loss", run.loss],
      ["Accuracy on held-out text", run.accuracy === "\u2013" ? run.accuracy : `${run.accuracy} %`],
      ["Client-sequences per second", run.speed],
      ["Last round", since(run) === null ? "\u2013" : `${time(since(run))} ago`],
      ["Algorithm", run.algorithm || "\u2013"],
      ["Data", run.data || "\u2013"],
    ];
    const list = part("facts");
    own.forEach(([term, value], n) => {
      const pair = list.children[n] || list.appendChild(make("div", {}, make("dt"), make("dd")));
      set(pair.children[0], term);
      set(pair.children[1], value);
    });
  }

  const link = (run) => make("a", { href: `/report/${run}`, target: "_blank", rel: "noopener" });

  function table(runs) {
    const strokes = ["solid", "dashed", "thin"];
    const known = new Set(runs.map((run) => run.number));
    for (const [number, line] of lines) {
      if (!known.has(number)) {
        line.remove();
        lines.delete(number);
      }
    }
    runs.forEach((run, place) => {
      if (!lines.has(run.number)) {
        const name = make("th", { scope: "row" }, make("span", { className: "swatch" }), make("span"));
        lines.set(run.number, make("tr", {}, name, ...Array.from({ length: 6 }, () => make("td"))));
      }
      const line = lines.get(run.number), [name, ...cells] = line.cells;
      name.firstChild.className = `swatch c-s${place % 7} ${strokes[Math.min(2, Math.floor(place / 7))]}`;
      if (run.report !== (name.lastChild.tagName === "A")) name.lastChild.replaceWith(run.report ? link(run.number) : make("span"));
      set(name.lastChild, run.name);
      const texts = [run.state, run.rounds ? `${run.round} of ${run.rounds}` : `${run.round}`, run.loss, run.accuracy, run.speed, time(left(run))];
      texts.forEach((text, n) => set(cells[n], text));
      line.title = run.sentence;
    });
    const body = part("runs").querySelector("tbody"), order = runs.map((run) => lines.get(run.number));
    if (order.some((line, n) => body.rows[n] !== line)) body.replaceChildren(...order);
  }

  function tell() {
    if (status === null) return;
    const alone = status.kind === "run" ? status.runs[0] : null;
    const started = status.runs.reduce((sum, run) => sum + run.round, 0), all = status.runs.reduce((sum, run) => sum + run.rounds, 0);
    set(part("title"), status.folder);
    part("badge").dataset.state = status.state;
    set(part("badge"), status.state);
    set(part("sentence"), status.sentence);
    set(part("spoken"), status.state === "running" ? "running" : `${status.state}: ${status.sentence}`); // not every round
    show(part("progress"), all > 0);
    part("progress").value = all ? started / all : 0;
    set(document.querySelector("title"), `${all ? `${Math.floor((100 * started) / all)} % \u00b7 ` : ""}${status.state} \u00b7 ${status.folder}`);
    show(part("facts"), alone !== null);
    show(part("runs"), alone === null && status.runs.length > 0);
    if (alone) facts(alone);
    else table(status.runs);
    const where = alone && alone.report ? [alone.number, "The report of this run"] : status.report ? ["comparison", "The page of this comparison"] : null;
    show(part("links"), where !== null);
    if (where && part("links").textContent !== where[1]) {
      const own = link(where[0]);
      own.textContent = where[1];
      part("links").replaceChildren(own);
    }
    const notes = [], damaged = status.runs.reduce((sum, run) => sum + run.damaged, 0);
    if (damaged) notes.push(`${damaged} ${damaged === 1 ? "line" : "lines"} of metrics.jsonl could not be read and ${damaged === 1 ? "is" : "are"} left out.`);
    if (status.left_out) notes.push(`${status.left_out} more runs of this folder are not drawn.`);
    const most = Math.max(...status.runs.map((run) => run.each), 1);
    if (most > 1) notes.push(`A point of a curve is the mean of up to ${most} rounds.`);
    set(part("notes"), notes.join(" "));
    show(part("notes"), notes.length > 0);
  }

  function lost() {
    part("badge").dataset.state = "lost";
    set(part("badge"), "no answer");
    set(part("spoken"), "no answer");
    set(part("sentence"), "flow watch does not answer: it has ended, or this machine is busy. The page goes on by itself when it answers.");
  }

  // ---- asking ----
  async function ask(address) {
    try {
      const answer = await fetch(address);
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  async function take(news) {
    if (news.whole) {
      curves.clear();
      charted = -1;
    }
    [epoch, version] = [news.epoch, news.version];
    const changed = new Set();
    for (const [run, own] of Object.entries(news.curves)) {
      for (const [name, [start, points]] of Object.entries(own)) {
        const key = `${run}/${name}`;
        curves.set(key, (curves.get(key) || []).slice(0, start).concat(points));
        changed.add(key);
      }
    }
    if (news.status) status = news.status;
    tell();
    if (news.charts !== charted) await recharted(news.charts);
    else if (changed.size) redraw((key) => changed.has(key));
  }

  async function poll() {
    if (busy) return;
    busy = true;
    let pause = 3 * SECOND;
    try {
      const news = await ask(`/news?epoch=${epoch}&version=${version}`);
      if (news === null) lost();
      else {
        await take(news);
        pause = news.behind ? 20 : document.hidden ? 10 * SECOND : BUSY.includes(status.state) ? SECOND : 2 * SECOND;
      }
    } finally {
      busy = false;
      timer = setTimeout(poll, pause);
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    clearTimeout(timer);
    poll();
  });
  setInterval(() => { if (part("badge").dataset.state !== "lost") tell(); }, SECOND);
  poll();
}
