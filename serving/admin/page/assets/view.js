// Draws the page out of plain descriptions and changes only what differs, so that focus, scrolling and what is unfolded
// stay as they are. What is told is only ever text: nothing here, or anywhere else, reads markup from a string.

const SVG = "http://www.w3.org/2000/svg";

/** A description of an element. Children may be nested lists; null, undefined and false are left out. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children: children.flat(Infinity).filter(shown) };
}

/** A drawing from the page's set of symbols. What it means is said in words beside it. */
export function icon(name, kind = "") {
  return h("svg", { class: `icon ${kind}`, viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" },
    h("use", { href: `#i-${name}` }));
}

/** Words for those who hear the page. */
export function spoken(text) {
  return h("span", { class: "spoken" }, text);
}

/** Make the children of a node what is described. Those with a `key` stay themselves when they move. */
export function draw(parent, ...described) {
  fill(parent, described.flat(Infinity).filter(shown), parent.namespaceURI === SVG);
}

function shown(child) {
  return child !== null && child !== undefined && child !== false && child !== "";
}

function fill(parent, children, svg) {
  const keyed = new Map();
  for (const node of parent.childNodes) {
    if (node.described?.key !== undefined) keyed.set(node.described.key, node);
  }
  let at = parent.firstChild;
  for (const child of children) {
    let node = reusable(child, at, keyed);
    if (node !== null && node === at) {
      at = at.nextSibling;
    } else {
      node ??= made(child, svg);
      parent.insertBefore(node, at);
    }
    if (typeof child === "object") {
      apply(node, child.props);
      fill(node, child.children, svg || child.tag === "svg");
    } else if (node.nodeValue !== String(child)) {
      node.nodeValue = String(child);
    }
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function reusable(child, at, keyed) {
  if (typeof child !== "object") return at?.nodeType === Node.TEXT_NODE ? at : null;
  const node = child.props.key === undefined ? at : keyed.get(child.props.key);
  const same = node?.nodeType === Node.ELEMENT_NODE && node.localName === child.tag;
  return same && node.described?.key === child.props.key ? node : null;
}

function made(child, svg) {
  if (typeof child !== "object") return document.createTextNode(String(child));
  return svg || child.tag === "svg" ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
}

function apply(node, props) {
  const before = node.described ?? {};
  for (const name of Object.keys({ ...before, ...props })) {
    if (name === "key" || before[name] === props[name]) continue;
    if (name === "sizes") resize(node, before.sizes ?? {}, props.sizes ?? {});
    else if (name.startsWith("on")) node[name] = props[name] ?? null;
    else setAttribute(node, name, props[name]);
  }
  node.described = props;
}

/** Lengths that follow from figures, as custom properties: the policy forbids style attributes. */
function resize(node, before, sizes) {
  for (const [name, value] of Object.entries(sizes)) {
    if (before[name] !== value) node.style.setProperty(`--${name}`, value);
  }
}

function setAttribute(node, name, value) {
  if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else if (name === "href" && !/^[#/]/.test(value)) throw new Error(`a link out of here: ${value}`);
  else node.setAttribute(name, value === true ? "" : value);
}
