"use strict";
// Sorts and filters the tables, draws the figures one after the other, and redraws them when the page changes between light and dark.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const figures = JSON.parse(document.getElementById("data").textContent);
  const frames = new Map(figures.map((f) => [f.name, document.getElementById("figure-" + f.name)]));
  const hidden = new Map(figures.map((f) => [f.name, new Set()]));
  // What can't be seen on dark paper.
  const lighter = { "#000000": "#ffffff", "#0072B2": "#3fa9f5", "#DDDDDD": "#4a515a" };

  // --- tables ---
  const collator = new Intl.Collator("en", { numeric: true });

  function compare(a, b, numeric, sign) {
    if (!numeric) return sign * collator.compare(a.textContent, b.textContent);
    const [x, y] = [a.dataset.v, b.dataset.v];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // not there: last, always
    return sign * (x - y);
  }

  function sort(heading) {
    const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const numeric = heading.classList.contains("n"), sign = descending ? -1 : 1;
    body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], numeric, sign)));
  }

  function filter(input) {
    const rows = document.getElementById(input.dataset.table).tBodies[0].rows;
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    const count = document.querySelector(`output[data-count="${input.dataset.table}"]`);
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  }

  for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sort(button.parentElement));
  for (const input of document.querySelectorAll("input[data-table]")) input.addEventListener("input", () => filter(input));

  // --- figures ---
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function variant(figure) {
    const chosen = [...frames.get(figure.name).querySelectorAll("select")].map((s) => s.value);
    return figure.variants.find((v) => v.choice.every((c, k) => c === chosen[k]));
  }

  function coloured(traces) {
    const text = JSON.stringify(traces);
    return JSON.parse(dark.matches ? text.replace(/#(000000|0072B2|DDDDDD)/g, (c) => lighter[c]) : text);
  }

  function axis(own) {
    const line = { gridcolor: css("--grid"), linecolor: css("--line"), zerolinecolor: css("--line") };
    return { automargin: true, ...line, ...own, title: { standoff: 8, ...own.title } };
  }

  function draw(figure) {
    const frame = frames.get(figure.name), shown = variant(figure), plot = frame.querySelector(".plot");
    plot.hidden = !shown; // the two menus may ask for what no run has
    frame.querySelector(".legend").hidden = !shown;
    if (!shown) return Promise.resolve();
    const traces = coloured(shown.traces);
    for (const trace of traces) trace.visible = !hidden.get(figure.name).has(trace.legendgroup);
    const layout = {
      ...shown.layout,
      xaxis: axis(shown.layout.xaxis), yaxis: axis(shown.layout.yaxis),
      showlegend: false, hovermode: shown.layout.hovermode || "closest",
      margin: { l: 12, r: 14, t: 28, b: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--line"), activecolor: css("--accent") },
    };
    legend(figure, frame, traces);
    return Plotly.react(plot, traces, layout, { responsive: true, displaylogo: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"] });
  }

  const dashes = { dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "9 4", longdashdot: "9 3 2 3" };

  function legend(figure, frame, traces) {
    const entries = traces.filter((t) => t.name && t.showlegend !== false);
    const buttons = entries.length < 2 ? [] : entries.map((trace) => {
      const button = document.createElement("button"), group = trace.legendgroup;
      button.type = "button";
      button.setAttribute("aria-pressed", trace.visible);
      button.append(swatch(trace), decoded(trace.name));
      button.addEventListener("click", () => toggle(figure, group));
      return button;
    });
    frame.querySelector(".legend").replaceChildren(...buttons);
  }

  // Names are escaped for plotly; a text node wants them as they were.
  function decoded(name) {
    const area = document.createElement("textarea");
    area.innerHTML = name;
    return document.createTextNode(area.value);
  }

  function swatch(trace) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS(svg.namespaceURI, "line");
    const bar = trace.type === "bar", look = bar || !trace.line ? trace.marker : trace.line;
    for (const [name, value] of Object.entries({ width: 24, height: 10 })) svg.setAttribute(name, value);
    const drawn = { x1: 0, x2: 24, y1: 5, y2: 5, stroke: look.color, "stroke-width": bar ? 9 : 3, "stroke-dasharray": dashes[look.dash] || "" };
    for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
    svg.append(line);
    return svg;
  }

  function toggle(figure, group) {
    const off = hidden.get(figure.name);
    if (!off.delete(group)) off.add(group);
    draw(figure);
  }

  async function drawAll() {
    for (const figure of figures) {
      await draw(figure);
      await new Promise((resolve) => setTimeout(resolve)); // the page stays alive in between
    }
  }

  for (const figure of figures)
    for (const menu of frames.get(figure.name).querySelectorAll("select")) menu.addEventListener("change", () => draw(figure));
  dark.addEventListener("change", drawAll);

  for (const button of document.querySelectorAll(".copy"))
    button.addEventListener("click", async () => {
      const pre = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(pre.textContent);
        button.textContent = "copied";
      } catch { // a page from a file may not be allowed to: then select it, for the keyboard to copy
        getSelection().selectAllChildren(pre);
      }
    });

  drawAll().then(() => {
    performance.mark("drawn");
    document.documentElement.dataset.drawnMs = Math.round(performance.now());
  });
})();
