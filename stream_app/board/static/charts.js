// Large charts: uPlot draws the numbers of the table below a chart, with values under the pointer and a zoom.
"use strict";
(() => {
  const HEIGHT = 190;
  const drawn = new Map();

  // A canvas knows no light-dark(): let the browser compute the colour.
  function computed(name) {
    const probe = document.createElement("i");
    probe.className = `key ${name}`;
    document.body.append(probe);
    const value = getComputedStyle(probe, "::before").backgroundColor;
    probe.remove();
    return value;
  }

  function numbers(figure) {
    const heads = [...figure.querySelectorAll("thead th")].slice(1);
    const rows = [...figure.querySelectorAll("tbody tr")];
    const times = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
    const values = heads.map((_, n) => rows.map((row) => Number(row.cells[n + 1].textContent.replaceAll(",", ""))));
    return { heads, times, values };
  }

  // A slot of a day is a day of UTC, in whatever zone the browser is. Times are those of the browser.
  function clock(at_s, times) {
    const at = new Date(at_s * 1000);
    if (times[1] - times[0] >= 86400) return at.toISOString().slice(5, 10);
    return new Intl.DateTimeFormat("sv-SE", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(at);
  }

  // The numbers under the pointer stand in the legend; without a pointer it has the sums.
  function say(figure, times, values, cursor) {
    const index = cursor == null ? null : Math.min(cursor, times.length - 1);
    const sums = [...figure.querySelectorAll("figcaption .count")];
    sums.forEach((each, n) => {
      each.dataset.sum ??= each.textContent;
      each.textContent = index == null ? each.dataset.sum : values[n][index].toLocaleString("en");
    });
    const at = figure.querySelector("figcaption .at");
    if (at) at.textContent = index == null ? "" : clock(times[index], times);
  }

  function draw(figure) {
    const plot = figure.querySelector(".plot");
    const { heads, times, values } = numbers(figure);
    if (!heads.length) return;
    const known = drawn.get(figure.id);
    if (known && known.root.isConnected) known.destroy();
    // Each series is drawn on top of those below it, from the back to the front.
    const sums = [];
    values.forEach((series, n) => sums.push(series.map((value, i) => value + (n ? sums[n - 1][i] : 0))));
    const end = 2 * times[times.length - 1] - times[times.length - 2];
    const order = heads.map((_, n) => n).reverse();
    const soft = getComputedStyle(figure.querySelector("figcaption")).color;
    const line = getComputedStyle(figure.querySelector(".grid")).stroke;
    const isOfDays = times[1] - times[0] >= 86400;
    const days = isOfDays ? { incrs: [1, 2, 4, 7, 14].map((each) => each * 86400) } : {};
    // Leads and credits come whole.
    const whole = { incrs: [0, 1, 2, 3, 4, 5, 6, 7, 8].flatMap((zeros) => [1, 2, 5].map((each) => each * 10 ** zeros)) };
    // A tick at the end of the last slot would name a slot that is not shown.
    const named = (tick) => (tick < end ? clock(tick, times) : "");
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11.5px system-ui" };
    const columns = uPlot.paths.bars({ align: 1, size: [0.86, Infinity] });
    const options = {
      width: plot.clientWidth,
      height: HEIGHT,
      ...(isOfDays ? { tzDate: (at_s) => uPlot.tzDate(new Date(at_s * 1000), "Etc/UTC") } : {}),
      padding: [8, 14, 0, 0],
      cursor: { points: { show: false } },
      legend: { show: false },
      hooks: { setCursor: [(chart) => say(figure, times, values, chart.cursor.idx)] },
      axes: [{ ...axis, ...days, size: 26, values: (_, ticks) => ticks.map(named) }, { ...axis, ...whole, size: 46, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString("en")) }],
      scales: { x: { range: (_, min, max) => [min, max === times[times.length - 1] ? end : max] }, y: { range: (_, __, max) => [0, Math.max(3, max)] } },
      series: [
        { label: "From" },
        ...order.map((n) => ({
          label: heads[n].textContent,
          stroke: computed(heads[n].dataset.key),
          fill: computed(heads[n].dataset.key),
          width: 0,
          paths: columns,
          points: { show: false },
        })),
      ],
    };
    plot.classList.add("drawn");
    const chart = new uPlot(options, [times, ...order.map((n) => sums[n])], plot);
    chart.root.setAttribute("aria-hidden", "true");
    drawn.set(figure.id, chart);
  }

  window.drawCharts = () => {
    for (const figure of document.querySelectorAll("figure[data-chart=stack]")) draw(figure);
  };
  if (window.uPlot) {
    window.drawCharts();
    addEventListener("resize", () => {
      for (const [id, chart] of drawn) {
        const plot = document.querySelector(`#${CSS.escape(id)} .plot`);
        if (plot) chart.setSize({ width: plot.clientWidth, height: HEIGHT });
      }
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", window.drawCharts);
  }
})();
