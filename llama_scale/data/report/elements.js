// Elements are described first, then put into the page by changing only what differs from what stands there:
// a control that moves shifts lines and numbers, and leaves most of the page as it was.
"use strict";

const elements = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const written = new WeakMap(); // what each node was last made from

  // Children: descriptions, or one text.
  const element = (name, attributes = {}, ...children) => ({ name, attributes, children });

  function nodeFor(parent, description, before) {
    if (before && written.get(before)?.name === description.name) return before;
    const space = description.name === "svg" ? SVG : parent.namespaceURI;
    const node = document.createElementNS(space, description.name);
    if (before) before.replaceWith(node);
    else parent.append(node);
    return node;
  }

  function write(node, description) {
    const before = written.get(node);
    const [now, was] = [description.attributes, before?.attributes ?? {}];
    for (const name in now) if (now[name] !== was[name]) node.setAttribute(name, now[name]);
    for (const name in was) if (!(name in now)) node.removeAttribute(name);
    written.set(node, description);
    const [text] = description.children;
    if (typeof text !== "string") fill(node, description.children);
    else if (before?.children[0] !== text) node.textContent = text;
  }

  // Makes a parent hold these descriptions and nothing else.
  function fill(parent, descriptions) {
    descriptions.forEach((one, i) => write(nodeFor(parent, one, parent.childNodes[i]), one));
    while (parent.childNodes.length > descriptions.length) parent.lastChild.remove();
  }

  // Makes a node say these words.
  function say(node, words) {
    if (node.textContent !== words) node.textContent = words;
  }

  return { element, fill, say };
})();
