"use strict";
// Draws the charts when they come near the screen, hangs the pictures, and runs the map. All text goes in as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;

  for (const image of document.querySelectorAll("img[data-picture]")) {
    image.src = data.items[image.dataset.picture].picture;
  }

  // --- charts ---

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function template() {
    const axis = {
      gridcolor: color("--grid"), zerolinecolor: color("--line"), linecolor: color("--line"), automargin: true,
    };
    const clear = "rgba(0,0,0,0)";
    return { layout: {
      paper_bgcolor: clear, plot_bgcolor: clear, xaxis: axis, yaxis: axis,
      font: { color: color("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
      hoverlabel: { bgcolor: color("--paper"), bordercolor: color("--line"), font: { color: color("--ink") } },
      annotationdefaults: { font: { size: 13 } },
    }, data: { bar: [{ error_y: { color: color("--soft") } }] } };
  }

  // Five megabytes of script: text and pictures do not wait for them.
  function loadPlotly() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = $("plotly").textContent;
    document.head.append(script);
  }

  const drawn = new Map(); // element -> promise
  function draw(element) {
    if (!drawn.has(element)) {
      const figure = data.figures[element.dataset.figure];
      const layout = { ...figure.layout, template: template() };
      if (coarse) layout.dragmode = false; // a finger on a chart scrolls the page
      const config = { displayModeBar: false, responsive: true };
      loadPlotly();
      const done = Plotly.newPlot(element, structuredClone(figure.data), layout, config).then(() => {
        if (element.closest("#map-panels")) return prepareMap(element);
      }).then(() => { element.dataset.drawn = "true"; });
      drawn.set(element, done);
    }
    return drawn.get(element);
  }

  const charts = [...document.querySelectorAll("[data-figure]")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "400px" });
  charts.forEach((chart) => near.observe(chart));
  addEventListener("beforeprint", () => charts.forEach(draw));
  dark.addEventListener("change", () => {
    for (const element of drawn.keys()) Plotly.relayout(element, { template: template() });
  });

  // --- the map ---

  const SVG = "http://www.w3.org/2000/svg";
  const panels = $("map-panels");
  if (!panels) return;
  const card = $("map-card");
  const maps = [...panels.querySelectorAll("[data-figure]")];
  const places = new Map(); // element -> item -> its points in this panel
  const ranges = new Map(); // element -> the ranges that it began with
  let order = data.map.numbers;
  let chosen = null;

  function prepareMap(element) {
    const of = new Map();
    for (const trace of element.data.slice(1)) {
      trace.customdata.forEach((item, i) => {
        if (!of.has(item)) of.set(item, []);
        of.get(item).push([trace.x[i], trace.y[i]]);
      });
    }
    places.set(element, of);
    const { xaxis, yaxis } = element._fullLayout;
    ranges.set(element, [[...xaxis.range], [...yaxis.range]]);
    element.on("plotly_hover", (event) => {
      const item = event.points[0].customdata;
      if (item !== undefined) show(item, event.event.clientX, event.event.clientY);
    });
    element.on("plotly_click", (event) => show(event.points[0].customdata, event.event.clientX, event.event.clientY));
    element.on("plotly_unhover", hide);
    element.on("plotly_relayout", () => mark(null));
    const marks = document.createElementNS(SVG, "svg");
    marks.setAttribute("class", "marks");
    marks.setAttribute("aria-hidden", "true");
    element.append(marks);
    return fix(element).then(() => see(element));
  }

  // Filtering must not move the axes.
  function fix(element) {
    const [x, y] = ranges.get(element);
    return Plotly.relayout(element, { "xaxis.range": [...x], "yaxis.range": [...y] });
  }

  // Rings around an item's points in every panel, drawn over the charts: redrawing these would take too long.
  function mark(item) {
    for (const [element, of] of places) {
      const points = (item === null ? [] : of.get(item) || []).map((point) => pixels(element, point));
      const shape = (name, values) => {
        const one = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
        return one;
      };
      const line = shape("polyline", { points: points.map((p) => p.join(",")).join(" ") });
      const rings = points.map(([cx, cy]) => shape("circle", { cx, cy, r: 8 }));
      element.querySelector(".marks").replaceChildren(line, ...rings);
    }
  }

  function pixels(element, [x, y]) {
    const { xaxis, yaxis } = element._fullLayout;
    return [xaxis._offset + xaxis.c2p(x), yaxis._offset + yaxis.c2p(y)];
  }

  function show(item, x, y) {
    chosen = item;
    const { id, title, picture, why, facts } = data.items[item];
    $("card-title").textContent = title;
    $("card-id").textContent = id;
    $("card-facts").replaceChildren(...facts.map((fact) => {
      const line = document.createElement("li");
      line.textContent = fact;
      return line;
    }));
    $("card-picture").hidden = !picture;
    if (picture) { $("card-picture").src = picture; $("card-picture").alt = `Picture of ${title}`; }
    $("card-none").hidden = Boolean(picture);
    $("card-none").textContent = why;
    mark(item);
    card.hidden = false;
    const { width, height } = card.getBoundingClientRect();
    const left = x + 16 + width < innerWidth ? x + 16 : x - 16 - width;
    card.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    card.style.top = `${Math.max(8, Math.min(y + 16, innerHeight - height - 8))}px`;
  }

  // Where an item stands on the screen, in the first panel that has it.
  function showAtItsPlace(item) {
    for (const [element, of] of places) {
      const point = (of.get(item) || [])[0];
      if (!point) continue;
      const box = element.getBoundingClientRect();
      const [left, top] = pixels(element, point);
      show(item, box.left + left, box.top + top);
      return;
    }
    show(item, innerWidth / 2, innerHeight / 2);
  }

  function hide() {
    card.hidden = true;
    mark(null);
  }

  const ready = () => Promise.all(maps.map(draw));

  panels.addEventListener("keydown", async (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Escape") return hide();
    if (!(event.key in steps) && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    await ready();
    const at = order.indexOf(chosen);
    const step = steps[event.key];
    const next = { Home: 0, End: order.length - 1 }[event.key]
      ?? (at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length);
    showAtItsPlace(order[next]);
  });
  panels.addEventListener("blur", hide);

  // The sample, or the most conflicting with the others faint behind them.
  let view = "all";
  const conflicting = new Set(data.map.conflicting);
  function see(element) {
    const { data: traces } = data.figures[element.dataset.figure];
    const stays = (item) => view === "all" || conflicting.has(item);
    const line = traces[0];
    const kept = line.customdata.map((item, i) => i).filter((i) => stays(line.customdata[i]));
    const pick = (values) => kept.map((i) => values[i]);
    const points = traces.slice(1).map((_, i) => i + 1);
    const opacity = points.map((i) => traces[i].customdata.map((item) => (!stays(item) ? 0.1 : view === "all" ? 0.8 : 1)));
    return Plotly.restyle(element, { x: [pick(line.x)], y: [pick(line.y)], customdata: [pick(line.customdata)] }, [0])
      .then(() => Plotly.restyle(element, { "marker.opacity": opacity }, points));
  }
  for (const radio of document.querySelectorAll("[name=map-view]")) {
    radio.addEventListener("change", async () => {
      view = radio.value;
      order = view === "all" ? data.map.numbers : data.map.conflicting;
      chosen = null;
      hide();
      await ready();
      maps.forEach(see);
    });
  }

  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", async () => {
      await ready();
      const factor = Number(button.dataset.zoom);
      for (const element of maps) {
        if (!factor) { fix(element); continue; }
        const point = (places.get(element).get(chosen) || [])[0];
        const { xaxis, yaxis } = element._fullLayout;
        const scaled = ([low, high], centre) => {
          const middle = centre ?? (low + high) / 2, half = (high - low) / 2 * factor;
          return [middle - half, middle + half];
        };
        Plotly.relayout(element, {
          "xaxis.range": scaled(xaxis.range, point && point[0]), "yaxis.range": scaled(yaxis.range, point && point[1]),
        });
      }
    });
  }

  const search = $("map-search"), found = $("map-found");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    const hits = wanted ? order.filter((item) => {
      const { id, title } = data.items[item];
      return title.toLowerCase().includes(wanted) || id.toLowerCase().includes(wanted);
    }).slice(0, 12) : [];
    found.replaceChildren(...hits.map((item) => {
      const line = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = data.items[item].title;
      const see = async () => { await ready(); showAtItsPlace(item); };
      for (const kind of ["focus", "mouseenter", "click"]) button.addEventListener(kind, see);
      for (const kind of ["blur", "mouseleave"]) button.addEventListener(kind, hide);
      line.append(button);
      return line;
    }));
    found.hidden = !hits.length;
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
