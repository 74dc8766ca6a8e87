// Bit-widths of patches, drawn over the images, layer by layer.

// black for tokens that are not computed, then plasma up to FP32
const TOKENS = { 0: "#101010", 2: "#3a049a", 3: "#7e03a8", 4: "#b52f8c", 5: "#dd5e66", 6: "#f48849", 8: "#fdc527", f: "#f0f921" };

function renderPatches(run) {
  for (const [i, map] of run.patches.entries()) {
    const names = Object.keys(map.bits), figures = element("div", { class: "maps" }), label = element("b", {});
    const images = map.images.map((data) => Object.assign(new Image(), { src: `data:image/png;base64,${data}` }));
    const canvases = images.map((_, k) => element("canvas", { role: "img", "aria-label": `bit-widths of the patches of image ${k + 1}` }));
    figures.append(...canvases.map((canvas, k) => element("figure", {}, canvas, element("figcaption", {}, `image ${k + 1}`))));
    const draw = () => {
      const name = names[Number(slider.value)];
      label.textContent = name;
      slider.setAttribute("aria-valuetext", name);
      canvases.forEach((canvas, k) => overlay(canvas, images[k], map.bits[name][k], map));
    };
    const slider = element("input", { type: "range", min: 0, max: names.length - 1, value: Math.floor(names.length / 2), "aria-label": "activation", oninput: draw, class: "layer" });
    const widths = [...new Set(names.flatMap((n) => map.bits[n].flatMap((row) => [...row])))].sort();
    const legend = element("div", { class: "legend" }, ...widths.map((d) => element("span", {}, element("i", { style: `background:${TOKENS[d]}` }), d === "0" ? "not computed" : d === "f" ? "FP32" : `${d} bit`)));
    const about = `Bit-width of each patch (${map.label}). The squares above an image are its class and distillation tokens.`;
    const parts = [note(about), element("div", { class: "controls" }, slider, label), figures, legend];
    if (i === 0) section("patches", "Patches", ...parts);
    else document.getElementById("patches").append(element("h3", {}, map.label), ...parts);
    Promise.all(images.map((image) => image.decode())).then(draw);
  }
}

function overlay(canvas, image, digits, map) {
  const scale = Math.max(1, Math.round(224 / image.naturalWidth)), width = image.naturalWidth * scale, height = image.naturalHeight * scale;
  const side = map.prefix ? Math.round(width / 9) : 0;
  canvas.width = width;
  canvas.height = height + side;
  const ink = canvas.getContext("2d");
  ink.imageSmoothingEnabled = false;
  ink.drawImage(image, 0, side, width, height);
  for (let t = 0; t < map.prefix; t++) {
    ink.fillStyle = TOKENS[digits[t]];
    ink.fillRect(t * side, 0, side - 2, side - 2);
  }
  const patches = digits.length - map.prefix, columns = Math.round(Math.sqrt((patches * width) / height)), rows = patches / columns;
  ink.globalAlpha = 0.6;
  for (let t = map.prefix; t < digits.length; t++) {
    const at = t - map.prefix, x = at % columns, y = Math.floor(at / columns);
    ink.fillStyle = TOKENS[digits[t]];
    ink.fillRect((x * width) / columns, side + (y * height) / rows, width / columns, height / rows);
  }
  ink.globalAlpha = 1;
}
