// What only a browser knows: whether a thing is wider than its place, and must be scrolled by keys.
function reach() {
  for (const node of document.querySelectorAll("pre, .wide, .jp-OutputArea-output, .attr, #found"))
    node.scrollWidth > node.clientWidth ? (node.tabIndex = 0) : node.removeAttribute("tabindex");
}
addEventListener("load", reach);
addEventListener("resize", reach);
const contents = document.getElementById("contents");
if (contents) contents.open = innerWidth > 700;
