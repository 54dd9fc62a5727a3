// The viewer of the report page: the videos of one clip next to each other, in step.
//
// Differences and crops are drawn onto canvases and never read back: reading a video's pixels is forbidden to pages
// that were opened from a folder, drawing them is not.
"use strict";

const COLUMNS_AT_FIRST = 8;

class Viewer {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(document.getElementById(root.dataset.viewer).textContent);
    this.frame = 1 / this.data.fps;
    this.columns = [];
    this.clip = -1;
    this.playing = false;
    this.shown = new Set(this.data.sources.slice(0, COLUMNS_AT_FIRST).map((_, index) => index));
    root.hidden = false;
    this.listClips();
    this.listColumns();
    this.connect();
    this.show(Math.max(0, this.clipInAddress()));
  }

  role(name) {
    return this.root.querySelector(`[data-role="${name}"]`);
  }

  // --- lists ---

  listClips() {
    this.buttons = this.data.clips.map((clip, index) => {
      const button = make("button", { type: "button", textContent: clip.id });
      button.addEventListener("click", () => this.show(index, true));
      const item = make("li");
      item.append(button);
      return button;
    });
    this.role("clips").append(...this.buttons.map((button) => button.parentElement));
    this.role("filter").addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      this.data.clips.forEach((clip, index) => {
        this.buttons[index].parentElement.hidden = !clip.id.toLowerCase().includes(wanted);
      });
    });
  }

  listColumns() {
    this.role("columns").append(...this.data.sources.map((source, index) => {
      const box = make("input", { type: "checkbox", checked: this.shown.has(index) });
      box.addEventListener("change", () => {
        if (box.checked) this.shown.add(index);
        else this.shown.delete(index);
        this.show(this.clip);
      });
      const label = make("label");
      label.append(box, ` ${source.label}`);
      return label;
    }));
  }

  clipInAddress() {
    const [viewer, clip] = decodeURIComponent(location.hash.slice(1)).split("/");
    return viewer === this.root.dataset.viewer ? this.data.clips.findIndex((each) => each.id === clip) : -1;
  }

  // --- controls ---

  connect() {
    this.role("play").addEventListener("click", () => this.toggle());
    this.role("back").addEventListener("click", () => this.step(-1));
    this.role("forward").addEventListener("click", () => this.step(1));
    this.role("scrub").addEventListener("input", (event) => this.seek(Number(event.target.value)));
    this.role("rate").addEventListener("change", () => this.applySettings());
    this.role("sound").addEventListener("change", () => this.applySettings());
    this.role("size").addEventListener("change", () => this.applySettings());
    this.role("gain").addEventListener("input", () => this.applySettings());
    for (const name of ["difference", "mouth"]) {
      this.role(name).addEventListener("change", () => this.applySettings());
    }
    this.root.addEventListener("keydown", (event) => {
      if (event.target !== this.root) return;
      const action = { " ": () => this.toggle(), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1) }[event.key];
      if (action) {
        event.preventDefault();
        action();
      }
    });
    // A viewer that nobody sees does not play.
    new IntersectionObserver(([entry]) => { if (!entry.isIntersecting) this.pause(); }).observe(this.root);
  }

  applySettings() {
    const gain = this.role("gain").value;
    this.role("gain-text").textContent = `${gain}x`;
    this.role("stage").style.setProperty("--side", `${this.role("size").value}px`);
    for (const column of this.columns) {
      column.video.playbackRate = Number(this.role("rate").value);
      column.video.muted = !this.role("sound").checked || column !== this.leader;
      column.difference.hidden = !this.role("difference").checked;
      column.difference.style.filter = `brightness(${gain})`;
      column.mouth.hidden = !this.role("mouth").checked;
    }
    for (const note of this.root.querySelectorAll("[data-for]")) note.hidden = !this.role(note.dataset.for).checked;
    this.columns.forEach((column) => this.draw(column));
  }

  // --- a clip ---

  show(index, chosen = false) {
    this.pause();
    for (const column of this.columns) {
      column.video.removeAttribute("src"); // gives the decoder back
      column.video.load();
    }
    this.clip = index;
    const clip = this.data.clips[index];
    this.buttons.forEach((button, each) => button.setAttribute("aria-current", String(each === index)));
    if (chosen) history.replaceState(null, "", `#${encodeURIComponent(`${this.root.dataset.viewer}/${clip.id}`)}`);
    this.role("title").textContent = `${clip.id} (${index + 1} of ${this.data.clips.length})`;
    this.role("about").textContent = `Mouth: ${clip.mouth_source}. Difference: absolute, per colour, amplified.`;
    this.columns = [];
    this.role("stage").replaceChildren(...[...this.shown].sort((a, b) => a - b).map((each) => this.makeColumn(each, clip)));
    for (const column of this.columns) {
      column.base = this.columns.find((other) => other.source.run_id && other.source.run_id === column.source.baseline);
    }
    // The real video may be longer than the generated ones, so it does not lead.
    this.leader = this.columns.find((column) => column.source.run_id) || this.columns[0];
    this.explainMissingDifferences();
    this.applySettings();
  }

  makeColumn(index, clip) {
    const source = this.data.sources[index];
    const cell = source.cells[this.clip];
    const figure = make("figure", { className: "column" });
    const caption = make("figcaption", { textContent: source.label });
    caption.append(make("small", { textContent: source.detail }));
    figure.append(caption);
    if (!cell.src) {
      figure.append(make("div", { className: "note", textContent: cell.reason }));
      return figure;
    }
    const video = make("video", { muted: true, playsInline: true, preload: "auto", src: cell.src });
    const column = { source, figure, video, clip, difference: make("canvas"), mouth: make("canvas"), time: null };
    figure.append(video, column.difference, column.mouth);
    this.columns.push(column);
    this.listen(column);
    return figure;
  }

  listen(column) {
    const { video, figure } = column;
    video.addEventListener("loadeddata", () => {
      figure.classList.toggle("pixels", video.videoWidth <= 128);
      this.tell();
      this.drawAll();
    });
    video.addEventListener("seeked", () => this.drawAll());
    video.addEventListener("error", () => {
      column.difference.replaceWith(make("div", { className: "note", textContent: "this video cannot be played" }));
    });
    video.addEventListener("ended", () => { if (column === this.leader && this.playing) this.restart(); });
    if (!video.requestVideoFrameCallback) return;
    const presented = (_, frame) => {
      column.time = frame.mediaTime;
      this.drawAll();
      video.requestVideoFrameCallback(presented);
    };
    video.requestVideoFrameCallback(presented);
  }

  explainMissingDifferences() {
    for (const column of this.columns) {
      if (column.base) continue;
      const { source } = column;
      let text = "no unaccelerated run with the same settings";
      if (!source.run_id) text = "the real video: another picture, not compared";
      else if (source.is_baseline) text = "the baseline itself";
      else if (source.baseline) text = "its baseline is not shown, or has no such video";
      const note = make("div", { className: "note", textContent: text });
      note.dataset.for = "difference";
      column.difference.replaceWith(note);
    }
  }

  // --- pictures ---

  drawAll() {
    this.columns.forEach((column) => this.draw(column));
  }

  draw(column) {
    if (column.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
    this.drawMouth(column);
    if (column.base) this.drawDifference(column);
  }

  drawMouth({ video, mouth, clip }) {
    const [x0, y0, x1, y1] = clip.mouth;
    const width = Math.max(1, Math.round((x1 - x0) * video.videoWidth));
    const height = Math.max(1, Math.round((y1 - y0) * video.videoHeight));
    resize(mouth, width, height);
    mouth.getContext("2d").drawImage(video, x0 * video.videoWidth, y0 * video.videoHeight, width, height, 0, 0, width, height);
  }

  drawDifference({ video, difference, base, time }) {
    if (base.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
    // Two decoders present a frame at slightly different moments: subtract only equal frames.
    const known = time !== null && base.time !== null;
    if (known && Math.abs(time - base.time) > this.frame / 2) return;
    resize(difference, video.videoWidth, video.videoHeight);
    const context = difference.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.drawImage(base.video, 0, 0, difference.width, difference.height);
    context.globalCompositeOperation = "difference";
    context.drawImage(video, 0, 0, difference.width, difference.height);
  }

  // --- time ---

  get frames() {
    const seconds = this.leader ? this.leader.video.duration : 0;
    return Number.isFinite(seconds) ? Math.max(1, Math.round(seconds * this.data.fps)) : 1;
  }

  get current() {
    if (!this.leader) return 0;
    return Math.min(this.frames - 1, Math.floor(this.leader.video.currentTime * this.data.fps + 1e-6));
  }

  tell() {
    const scrub = this.role("scrub");
    scrub.max = String(this.frames - 1);
    scrub.value = String(this.current);
    this.role("time").textContent = `frame ${this.current + 1} of ${this.frames}`;
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  async play() {
    if (!this.leader || this.playing) return;
    this.playing = true;
    this.role("play").textContent = "pause";
    if (this.current >= this.frames - 1) this.setTime(0);
    await this.start();
    const tick = () => {
      if (!this.playing) return;
      this.keepStep();
      this.tell();
      requestAnimationFrame(tick);
    };
    tick();
  }

  async start() {
    // A rejected play() means that the clip was changed or paused meanwhile.
    await Promise.allSettled(this.columns.map((column) => column.video.play()));
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.role("play").textContent = "play";
    const place = this.current;
    this.columns.forEach((column) => column.video.pause());
    this.seek(place); // all on the same frame
  }

  restart() {
    this.setTime(0);
    this.start();
  }

  keepStep() {
    const now = this.leader.video.currentTime;
    for (const { video } of this.columns) {
      if (video === this.leader.video || video.seeking || video.ended) continue;
      if (Math.abs(video.currentTime - now) > this.frame) video.currentTime = now;
    }
  }

  step(by) {
    this.pause();
    this.seek(Math.min(this.frames - 1, Math.max(0, this.current + by)));
  }

  seek(frame) {
    this.setTime((frame + 0.5) * this.frame); // the middle, so that rounding never shows a neighbour
    this.tell();
  }

  setTime(seconds) {
    for (const { video } of this.columns) {
      video.currentTime = Number.isFinite(video.duration) ? Math.min(seconds, video.duration) : seconds;
    }
  }
}

function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function resize(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

// A viewer is made when it comes near: a page of many comparisons opens as fast as one of one.
const near = new IntersectionObserver((entries, observer) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    new Viewer(target.querySelector("[data-viewer]"));
  }
}, { rootMargin: "600px" });
for (const viewer of document.querySelectorAll("[data-viewer]")) near.observe(viewer.parentElement);
