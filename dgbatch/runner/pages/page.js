"use strict";
(async () => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const failed = (why) => {
    for (const name of Object.keys(plots)) document.getElementById(name).textContent = `The plot cannot be drawn: ${why}.`;
  };
  if (typeof DecompressionStream === "undefined") return failed("it needs a browser of 2023 or later");

  // plotly.js lies in the page gzipped; a script made of its text is one that the page's policy allows.
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // A colour is the name of a CSS variable until it is drawn.
  const coloured = (value) => {
    if (typeof value === "string") return value.startsWith("--") ? css(value) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inside]) => [key, coloured(inside)]));
  };
  const axis = () => ({
    automargin: true, fixedrange: matchMedia("(pointer: coarse)").matches, gridcolor: css("--line"), linecolor: css("--line"),
    zeroline: false, ticks: "", tickfont: { size: 11, color: css("--muted") },
  });
  const layout = (own) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: { family: css("--sans"), size: 12, color: css("--muted") },
    hoverlabel: { bgcolor: css("--ink"), bordercolor: css("--ink"), align: "left", font: { family: css("--sans"), size: 12, color: css("--paper") } },
    ...own,
    margin: { l: 8, r: 8, t: 8, b: 8, ...own.margin },
    xaxis: { ...axis(), showgrid: false, ...own.xaxis, title: { font: { size: 11, color: css("--muted") }, standoff: 4, ...own.xaxis?.title } },
    yaxis: { ...axis(), ...own.yaxis },
  });
  const draw = () => Promise.all(Object.entries(plots).map(([name, plot]) =>
    Plotly.react(name, coloured(plot.data), layout(coloured(plot.layout)), { displayModeBar: false, responsive: true })));

  await draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.documentElement.dataset.drawn = Object.keys(plots).length;
})();

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl-C";
    }
  });
}
