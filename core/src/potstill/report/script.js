// Plotly draws its own text, which no style sheet reaches: take the page's colours, and again when the theme changes.
function paint() {
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  for (const figure of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(figure, { "font.color": colour });
}
paint();
// A figure is drawn before its neighbour is there, and so too wide.
for (const figure of document.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(figure);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
// What is folded has no width until it is opened.
for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", () => {
  for (const figure of folded.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(figure);
});
