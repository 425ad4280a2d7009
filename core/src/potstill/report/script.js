// Plotly draws its own text, which no style sheet reaches: take the page's colours, and again when the theme changes.
function paint() {
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  for (const figure of document.querySelectorAll(".js-plotly-plot"))
    Plotly.update(figure, { "textfont.color": colour }, { "font.color": colour });
}
paint();
// A figure is drawn before its neighbour is there, and so too wide.
for (const figure of document.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(figure);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
// What is folded has no width until it is opened.
for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", () => {
  for (const figure of folded.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(figure);
});
// A click on a name of a legend hides what has it in all figures of the page, or shows it again.
for (const clicked of document.querySelectorAll(".legend button")) clicked.addEventListener("click", () => {
  const name = clicked.textContent, visible = clicked.ariaPressed !== "true";
  for (const button of document.querySelectorAll(".legend button"))
    if (button.textContent === name) button.ariaPressed = String(visible);
  for (const figure of document.querySelectorAll(".js-plotly-plot")) {
    const marks = figure.data.flatMap((mark, number) => mark.meta === name ? [number] : []);
    if (marks.length) Plotly.restyle(figure, { visible }, marks);
  }
});
