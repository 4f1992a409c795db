"use strict";
// Draws the pictures of the runs that are opened, and lets batches be filtered and looked through. What comes from the
// data goes into the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROWS_A_PAGE = 50;
  const LONG = 160;
  const NARROW = 600;
  const colors = {sending: "#a97f00", queued: "#7f8894", running: "#3b82c4"};
  // Each end that is not a good one has a shape of its own, too.
  const marks = {
    errored: ["x", "#d8493b"], timed_out: ["square", "#c2528b"], lost: ["triangle", "#9566d6"], unknown: ["diamond", "#c07400"],
  };
  const views = [];

  const plotsOf = (view) => view.roots.flatMap((root) => [root, ...(root.child_views ?? [])]).filter(({model}) => model.toolbar);

  const embed = async (item, id) => {
    const view = await Bokeh.embed.embed_item(item, id);
    views.push(view);
    // Bokeh lets the keyboard in, where nothing has a name and no key does anything.
    for (const plot of plotsOf(view)) plot.canvas_view.events_el.tabIndex = -1;
    // Drawn over a picture, a finger scrolls the page, and a mouse chooses a part.
    if (matchMedia("(pointer: fine)").matches)
      for (const {model} of plotsOf(view)) for (const tool of model.toolbar.tools) if (tool.type === "BoxZoomTool") tool.active = true;
    // Where there is no room for many times, they would be written over each other.
    if (document.body.clientWidth < NARROW)
      for (const {model} of plotsOf(view)) for (const axis of model.below) axis.ticker.desired_num_ticks = 3;
    return view;
  };

  const seconds = (value) => {
    if (value == null) return "–";
    if (value < 100) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
    const whole = Math.round(value), pad = (part) => String(part).padStart(2, "0");
    return `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
  };
  const clock = (value) => value == null ? "–" : new Date(value * 1000).toISOString().slice(0, 19).replace("T", " ");
  const word = (state) => (state[0].toUpperCase() + state.slice(1)).replace("_", " ");
  const short = (text) => text.length > LONG ? `${text.slice(0, LONG)}…` : text;

  class Run {
    constructor(section, run) {
      this.section = section;
      this.run = run;
      this.batches = run.batches;
      this.page = 0;
      this.sorted = {column: "number", down: false};
      // Batches by when they were first sent.
      const first = new Map();
      run.spans.batch.forEach((batch, at) => { if (!first.has(batch)) first.set(batch, run.spans.from[at]); });
      this.order = [...first.keys()].sort((a, b) => first.get(a) - first.get(b) || a - b);
      this.first = first;
    }

    async draw() {
      const index = this.section.dataset.run;
      if (this.run.charts.time) {
        const view = await embed(this.run.charts.time, `chart-time-${index}`);
        const found = (name) => view.roots[0].model.document.get_model_by_name(name);
        this.models = {spans: found("spans"), ends: found("ends"), rows: found("rows"), time: found("time")};
        this.all = [this.models.time.start, this.models.time.end];
        this.models.time.change.connect(() => this.fit());
        this.listen();
        this.filter();
      }
      if (this.run.charts.delay) await embed(this.run.charts.delay, `chart-delay-${index}`);
      this.section.dataset.drawn = "yes";
    }

    listen() {
      const form = this.section.querySelector("form.filter");
      form.addEventListener("input", () => { this.page = 0; this.filter(); });
      form.addEventListener("submit", (event) => event.preventDefault());
      for (const button of this.section.querySelectorAll("[data-zoom]"))
        button.addEventListener("click", () => this.zoom(button.dataset.zoom));
      for (const button of this.section.querySelectorAll("[data-page]"))
        button.addEventListener("click", () => { this.page += Number(button.dataset.page); this.list(); });
      for (const button of this.section.querySelectorAll("[data-sort]"))
        button.addEventListener("click", () => this.sort(button.dataset.sort));
    }

    zoom(how) {
      const range = this.models.time, [start, end] = [range.start, range.end], length = end - start;
      const [to, from] = {
        in: [end - length / 4, start + length / 4], out: [end + length / 2, start - length / 2],
        earlier: [end - length / 2, start - length / 2], later: [end + length / 2, start + length / 2], all: this.all.toReversed(),
      }[how];
      range.setv({start: from, end: to});
    }

    // Which batches there is room for follows from the time that is looked at: of thousands, those that were at work then.
    fit() {
      const {spans, rows, time} = this.models, {row, from, to} = spans.data;
      let first = Infinity, last = -Infinity;
      for (let at = 0; at < row.length; at++) {
        if (to[at] < time.start || from[at] > time.end) continue;
        first = Math.min(first, row[at]);
        last = Math.max(last, row[at]);
      }
      rows.setv(last < 0 ? {start: 0.6, end: -0.6} : {start: last + 0.6, end: first - 0.6});
    }

    filter() {
      const form = this.section.querySelector("form.filter");
      const states = new Set([...form.querySelectorAll("input[name=state]:checked")].map((box) => box.value));
      const text = form.elements.namedItem("text").value.trim().toLowerCase();
      const {label, state, job, error} = this.batches;
      this.shown = new Set();
      for (let batch = 0; batch < state.length; batch++) {
        if (!states.has(data.states[state[batch]])) continue;
        if (text && ![label[batch], String(job[batch] ?? ""), data.errors[error[batch]] ?? ""].some((found) => found.toLowerCase().includes(text))) continue;
        this.shown.add(batch);
      }
      this.picture();
      this.list();
    }

    picture() {
      const {spans, ends} = this.models, row = new Map();
      for (const batch of this.order) if (this.shown.has(batch)) row.set(batch, row.size);
      const names = Object.keys(spans.data), bars = Object.fromEntries(names.map((name) => [name, []]));
      const points = Object.fromEntries(Object.keys(ends.data).map((name) => [name, []]));
      const {batch, kind, from, to} = this.run.spans;
      const last = new Map();
      batch.forEach((number, at) => { if (row.has(number)) last.set(number, at); });
      const put = (columns, at, color) => {
        const number = batch[at], {label, size, job, state, error} = this.batches;
        columns.row.push(row.get(number));
        columns.from.push((this.run.base + from[at]) * 1000);
        columns.to.push((this.run.base + to[at]) * 1000);
        columns.color.push(color);
        columns.label.push(label[number]);
        columns.size.push(size[number]);
        columns.job.push(String(job[number] ?? "–"));
        columns.state.push(word(data.states[state[number]]));
        columns.here.push(`${data.kinds[kind[at]]} for ${seconds(to[at] - from[at])}`);
        columns.error.push(short(data.errors[error[number]] ?? "–"));
      };
      batch.forEach((number, at) => { if (row.has(number)) put(bars, at, colors[data.kinds[kind[at]]]); });
      for (const [number, at] of last) {
        const mark = marks[data.states[this.batches.state[number]]];
        if (!mark) continue;
        put(points, at, mark[1]);
        points.marker.push(mark[0]);
      }
      spans.data = bars;
      ends.data = points;
      this.fit();
    }

    sort(column) {
      this.sorted = {column, down: this.sorted.column === column && !this.sorted.down};
      for (const button of this.section.querySelectorAll("[data-sort]")) {
        if (button.dataset.sort === column)
          button.parentElement.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
        else button.parentElement.removeAttribute("aria-sort");
      }
      this.page = 0;
      this.list();
    }

    value(column, batch) {
      if (column === "sent") return this.first.has(batch) ? this.run.base + this.first.get(batch) : null;
      if (column === "state") return data.states[this.batches.state[batch]];
      return this.batches[column][batch];
    }

    list() {
      const {column, down} = this.sorted, sign = down ? -1 : 1;
      const order = [...this.shown].sort((a, b) => {
        const [one, other] = [this.value(column, a), this.value(column, b)];
        // What has no value comes last, either way.
        if (one == null || other == null) return (one == null) - (other == null) || a - b;
        return (one < other ? -sign : one > other ? sign : 0) || a - b;
      });
      const pages = Math.max(1, Math.ceil(order.length / ROWS_A_PAGE));
      this.page = Math.min(Math.max(this.page, 0), pages - 1);
      const start = this.page * ROWS_A_PAGE, here = order.slice(start, start + ROWS_A_PAGE);
      const body = this.section.querySelector("table.batches tbody");
      body.replaceChildren(...here.map((batch) => this.line(batch)));
      const many = (count) => count.toLocaleString("en");
      this.section.querySelector(".where").textContent = order.length
        ? `${many(start + 1)} to ${many(start + here.length)} of ${many(order.length)} batches` : "No batch is like that";
      const [before, next] = this.section.querySelectorAll("[data-page]");
      before.disabled = this.page === 0;
      next.disabled = this.page === pages - 1;
    }

    line(batch) {
      const {label, state, size, job, attempts, duration, delay, error} = this.batches, line = document.createElement("tr");
      const name = data.states[state[batch]];
      const cell = (text, kind, tag = "td") => {
        const made = document.createElement(tag);
        made.className = kind;
        made.textContent = text;
        line.append(made);
        return made;
      };
      cell(label[batch], "number", "th").scope = "row";
      cell(word(name), `state ${name}`);
      cell(size[batch], "number");
      cell(job[batch] ?? "–", "number");
      cell(attempts[batch], "number");
      cell(clock(this.value("sent", batch)), "number");
      cell(seconds(duration[batch]), "number");
      cell(seconds(delay[batch]), "number");
      cell(data.errors[error[batch]] ?? "–", "text");
      return line;
    }
  }

  const copy = async (button) => {
    const area = document.getElementById(button.dataset.from);
    area.select();
    try {
      await navigator.clipboard.writeText(area.value);
    } catch {
      document.execCommand("copy"); // a page in a file may be refused the other way
    }
    button.textContent = "Copied";
  };

  // The colors are the page's, which follow the system's; the pictures look them up when they are painted. At their
  // edges half a pixel is painted, so that the last colors would show through.
  const wipe = () => {
    for (const plot of views.flatMap(plotsOf)) {
      const {canvas} = plot.canvas_view.primary;
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    }
  };
  const repaint = () => {
    wipe();
    for (const plot of views.flatMap(plotsOf)) plot.request_paint();
  };

  // On paper, copies of the pictures take their places, dark on white: a picture can be made narrower only later, for
  // which no browser waits, but a copy by its style.
  const onPaper = (isPrinted) => {
    document.documentElement.toggleAttribute("data-printed", isPrinted);
    for (const copy of document.querySelectorAll(".chart > canvas")) copy.remove();
    wipe();
    for (const root of views.flatMap((view) => view.roots).filter(({el}) => el.closest(".chart")?.clientWidth)) {
      root.invalidate_layout();
      if (isPrinted) root.el.after(root.export("png").canvas);
    }
  };

  const begin = async () => {
    document.getElementById("unscripted").remove();
    for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", () => copy(button));
    if (data.durations) await embed(data.durations, "chart-durations");
    for (const section of document.querySelectorAll("details.run")) {
      const run = new Run(section, data.runs[Number(section.dataset.run)]);
      const draw = () => { if (section.open && !section.dataset.drawn) { section.dataset.drawn = "begun"; return run.draw(); } };
      section.addEventListener("toggle", draw);
      await draw();
    }
    // A link to a run opens it.
    const follow = () => { const target = document.getElementById(location.hash.slice(1)); if (target?.matches("details")) target.open = true; };
    addEventListener("hashchange", follow);
    follow();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    addEventListener("beforeprint", () => onPaper(true));
    addEventListener("afterprint", () => onPaper(false));
    document.documentElement.dataset.ready = "yes";
  };
  begin();
})();
