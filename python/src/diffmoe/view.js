function (root, data) {
  "use strict";
  if (!root) return;
  const find = (name) => root.querySelector("." + name);
  const slider = find("dm-step");
  const show = find("dm-show");
  const block = find("dm-block");
  const [rows, columns] = data.grid;
  const tokens = rows * columns;
  const layers = data.blocks.length;
  const masks = decode(data.masks, data.bytes);
  const ramp = data.ramp.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  /** Canvases of each image: without and with the overlay. */
  const plain = [];
  const covered = [];
  let sprite = null;
  let timer = null;

  /** Bit masks [steps][layers][images][tokens], in words of at most 32 bits: the low ones, and the high ones beyond. */
  function decode(text, bytes) {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(raw.buffer);
    const read = { 1: "getUint8", 2: "getUint16", 4: "getUint32", 8: "getUint32" }[bytes];
    const words = (first) => Array.from({ length: raw.length / bytes }, (_, i) => view[read](i * bytes + first, true));
    return bytes === 8 ? [words(0), words(4)] : [words(0)];
  }

  /** The words of a mask. */
  function mask(step, layer, image, token) {
    return masks.map((words) => words[((step * layers + layer) * data.images + image) * tokens + token]);
  }

  function takes(words, expert) {
    return (words[expert >> 5] >>> (expert & 31)) & 1;
  }

  function bits(words) {
    let n = 0;
    for (let m of words) for (; m; m &= m - 1) n++;
    return n;
  }

  function colour(share) {
    const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
    const i = Math.min(Math.floor(at), ramp.length - 2);
    return ramp[i].map((a, c) => Math.round(a + (ramp[i + 1][c] - a) * (at - i)));
  }

  /** Number of experts of a token: in one layer, or the mean over all. */
  function count(step, layer, image, token) {
    if (layer >= 0) return bits(mask(step, layer, image, token));
    let sum = 0;
    for (let l = 0; l < layers; l++) sum += bits(mask(step, l, image, token));
    return sum / layers;
  }

  /** Largest counts of the run, for the colour scale. */
  const most = { layer: 1, mean: 1 };
  for (let s = 0; s < data.steps.length && layers; s++) {
    for (let p = 0; p < data.images; p++) {
      for (let t = 0; t < tokens; t++) {
        most.mean = Math.max(most.mean, count(s, -1, p, t));
        for (let l = 0; l < layers; l++) most.layer = Math.max(most.layer, count(s, l, p, t));
      }
    }
  }

  const chosen = () => ({
    step: Number(slider.value),
    layer: block ? Number(block.value) : -1,
    show: show ? show.value : "none",
  });

  function draw() {
    const { step, layer, show: what } = chosen();
    const [number, time] = data.steps[step];
    find("dm-when").textContent = `${number} of ${data.last}, t = ${time.toFixed(3)}`;
    const isCovered = what !== "none" && layers > 0;
    plain.forEach((canvas, image) => paint(canvas, step, image));
    covered.forEach((canvas, image) => {
      canvas.hidden = !isCovered;
      if (isCovered) overlay(paint(canvas, step, image), step, layer, image, what);
    });
    legend(what, layer);
    mark(number);
  }

  /** Sizes a canvas and draws an image at a step, if the run has images. */
  function paint(canvas, step, image) {
    const [h, w] = data.size;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    canvas.width = w * data.scale * ratio;
    canvas.height = h * data.scale * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    if (sprite) context.drawImage(sprite, image * w, step * h, w, h, 0, 0, w * data.scale, h * data.scale);
    return context;
  }

  function overlay(context, step, layer, image, what) {
    const w = (data.size[1] * data.scale) / columns;
    const h = (data.size[0] * data.scale) / rows;
    context.font = `${Math.min(h * 0.42, 12)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let t = 0; t < tokens; t++) {
      const x = (t % columns) * w;
      const y = Math.floor(t / columns) * h;
      if (what === "count") {
        const n = count(step, layer, image, t);
        const [r, g, b] = colour(n / (layer < 0 ? most.mean : most.layer));
        context.fillStyle = `rgba(${r},${g},${b},${sprite ? 0.68 : 1})`;
        context.fillRect(x, y, w, h);
        if (layer >= 0 && h >= 16) {
          context.fillStyle = r + g + b > 380 ? "#111" : "#fff";
          context.fillText(String(n), x + w / 2, y + h / 2 + 0.5);
        }
      } else {
        const taken = takes(mask(step, layer, image, t), Number(what));
        context.globalAlpha = taken ? (sprite ? 0.72 : 1) : sprite ? 0.45 : 0.12;
        context.fillStyle = taken ? data.colours[Number(what) % data.colours.length] : "#777";
        context.fillRect(x, y, w, h);
        context.globalAlpha = 1;
      }
    }
  }

  function legend(what, layer) {
    const place = find("dm-legend");
    if (!place) return;
    place.replaceChildren();
    if (what !== "count") return;
    const bar = document.createElement("span");
    bar.className = "dm-bar";
    bar.style.background = `linear-gradient(90deg, ${data.ramp.join(", ")})`;
    const end = layer < 0 ? most.mean : most.layer;
    place.append("0", bar, String(Math.round(end * 10) / 10));
  }

  /** Marks the step in both charts. */
  function mark(number) {
    const curve = find("dm-curve");
    const loads = find("dm-loads");
    if (curve) {
      const { left, right, steps } = curve.dataset;
      const x = Number(left) + (right - left) * (number / Math.max(steps - 1, 1));
      const line = curve.querySelector(".dm-now");
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
    if (loads) {
      const { left, column } = loads.dataset;
      loads.querySelector(".dm-now").setAttribute("x", Number(left) + number * column);
    }
  }

  function go(number) {
    let best = 0;
    data.steps.forEach(([step], i) => {
      if (Math.abs(step - number) < Math.abs(data.steps[best][0] - number)) best = i;
    });
    slider.value = best;
    draw();
  }

  /** Pointer position in SVG units. */
  function place(svg, event) {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  /** Describes the patch under the pointer. */
  function tell(canvas, image, event) {
    if (!layers) return;
    const box = canvas.getBoundingClientRect();
    const at = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const row = at((event.clientY - box.top) / box.height, rows);
    const column = at((event.clientX - box.left) / box.width, columns);
    const of = data.blocks.map((b, l) => {
      const m = mask(chosen().step, l, image, row * columns + column);
      const experts = Array.from({ length: data.experts }, (_, e) => e).filter((e) => takes(m, e));
      return `block ${b}: ${experts.join(", ") || "none"}`;
    });
    find("dm-hint").textContent = `Patch in row ${row}, column ${column}. Experts: ${of.join(" · ")}`;
  }

  function stopped() {
    clearInterval(timer);
    timer = null;
    find("dm-play").textContent = "▶";
  }

  if (slider) {
    root.querySelectorAll("figure").forEach((figure) => {
      const image = Number(figure.dataset.image);
      const caption = figure.querySelector("figcaption");
      figure.querySelector("img")?.remove();
      for (const [list, kind] of data.sprite ? [[plain, "image"], [covered, "experts"]] : [[covered, "experts"]]) {
        const canvas = document.createElement("canvas");
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `${kind}: ${caption.textContent}`);
        canvas.addEventListener("mousemove", (event) => tell(canvas, image, event));
        caption.before(canvas);
        list[image] = canvas;
      }
    });
    slider.addEventListener("input", () => {
      stopped();
      draw();
    });
    show?.addEventListener("change", () => {
      // Experts of different blocks are unrelated.
      if (!["count", "none"].includes(show.value) && block.value === "-1") block.value = "0";
      draw();
    });
    block?.addEventListener("change", () => {
      if (block.value === "-1" && !["count", "none"].includes(show.value)) show.value = "count";
      draw();
    });
    find("dm-play").addEventListener("click", () => {
      if (timer) return stopped();
      find("dm-play").textContent = "⏸";
      if (Number(slider.value) === Number(slider.max)) slider.value = 0;
      draw();
      timer = setInterval(() => {
        // The notebook may have removed the output.
        if (!root.isConnected || Number(slider.value) >= Number(slider.max)) return stopped();
        slider.value = Number(slider.value) + 1;
        draw();
      }, 450);
    });
    find("dm-controls").hidden = false;
    find("dm-curve")?.addEventListener("click", (event) => {
      const { left, right, steps } = event.currentTarget.dataset;
      go(Math.round(((place(event.currentTarget, event)[0] - left) / (right - left)) * (steps - 1)));
    });
    if (data.sprite) {
      sprite = new Image();
      sprite.onload = draw;
      sprite.src = data.sprite;
    } else {
      draw();
    }
  }
  find("dm-loads")?.addEventListener("mousemove", (event) => {
    const { left, top, column, cell, gap } = event.currentTarget.dataset;
    const [x, y] = place(event.currentTarget, event);
    const step = Math.floor((x - left) / column);
    const band = cell * data.experts + Number(gap);
    const layer = Math.floor((y - top) / band);
    const expert = Math.floor(((y - top) % band) / cell);
    const load = data.loads[step]?.[layer]?.[expert];
    find("dm-load-hint").textContent =
      load === undefined || load === null
        ? "\u00a0"
        : `Step ${step}, block ${data.blocks[layer]}, expert ${expert}: ${load.toFixed(2)} times its fair share`;
  });
  find("dm-loads")?.addEventListener("click", (event) => {
    const { left, column } = event.currentTarget.dataset;
    if (slider) go(Math.floor((place(event.currentTarget, event)[0] - left) / column));
  });
}
