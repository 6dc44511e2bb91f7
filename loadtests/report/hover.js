// Shows the values of the moment under the pointer. All that the page has to say is there without it.
"use strict";
(() => {
  const chart = document.querySelector(".chart");
  if (!chart) return;
  const data = JSON.parse(chart.querySelector(".values").textContent);
  const readout = chart.querySelector(".readout");
  const bins = data.faults.length;
  const states = ["closed", "half-open", "open"];
  let current = 0;

  const clock = (value) => {
    const rounded = Math.round(value * 10) / 10;
    if (data.seconds < 180) return `${rounded} s`;
    const whole = Math.round(value);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  };
  const figure = (value, unit) => {
    if (value === null) return "\u2013";
    if (unit === "state") return states[Math.min(2, Math.max(0, Math.round(value)))];
    if (unit === "ms" && value >= 1000) return `${(value / 1000).toFixed(2)} s`;
    const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    const text = value.toLocaleString("en", { maximumFractionDigits: digits }).replaceAll(",", "\u202f");
    return unit === "/s" ? `${text}/s` : `${text} ${unit}`.trim();
  };
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const row = (each, bin) => {
    const value = each.values[bin];
    const colour = each.unit === "state" ? `b-${states[Math.round(value ?? 0)]}` : each.class;
    const line = element("div", "row");
    line.append(element("i", `square ${colour}`), element("span", "", each.label), element("b", "", figure(value, each.unit)));
    return line;
  };

  const show = (bin) => {
    current = Math.min(bins - 1, Math.max(0, bin));
    const from = current * data.step;
    const to = Math.min(data.seconds, from + data.step);
    readout.replaceChildren(element("strong", "", `${clock(from)} \u2013 ${clock(to)}`));
    for (const fault of data.faults[current]) readout.append(element("div", "at-work", `\u25bc ${data.faultNames[fault]}`));
    for (const group of data.groups) {
      readout.append(element("h4", "", group.title), ...group.rows.map((each) => row(each, current)));
    }
    readout.hidden = false;
    for (const svg of chart.querySelectorAll("svg.timeline")) {
      const left = Number(svg.dataset.left);
      const x = left + ((from + to) / 2 / data.seconds) * (Number(svg.dataset.right) - left);
      const line = svg.querySelector(".cursor");
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.classList.add("shown");
    }
  };
  const hide = () => {
    readout.hidden = true;
    for (const line of chart.querySelectorAll(".cursor")) line.classList.remove("shown");
  };
  // Beside the pointer, on the side where there is more room; where the pointer is a finger, the style puts it below.
  const put = (event) => {
    const wide = document.documentElement.clientWidth;
    const high = document.documentElement.clientHeight;
    const right = event.clientX < wide / 2;
    readout.style.left = right ? `${event.clientX + 18}px` : "auto";
    readout.style.right = right ? "auto" : `${wide - event.clientX + 18}px`;
    readout.style.top = `${Math.max(8, Math.min(event.clientY - 40, high - readout.offsetHeight - 8))}px`;
  };

  for (const svg of chart.querySelectorAll("svg.timeline")) {
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const left = Number(svg.dataset.left);
      const right = Number(svg.dataset.right);
      if (x < left || x > right) return hide();
      show(Math.floor((((x - left) / (right - left)) * data.seconds) / data.step));
      put(event);
    });
    svg.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") hide();
    });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(current + step);
      const box = svg.getBoundingClientRect();
      const x = Number(svg.querySelector(".cursor").getAttribute("x1")) / svg.viewBox.baseVal.width;
      put({ clientX: box.left + x * box.width, clientY: Math.max(box.top, 60) });
    });
  }
})();
