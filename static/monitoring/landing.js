"use strict";

const line = document.getElementById("status");

fetch(line.dataset.healthUrl)
  .then((response) => response.json())
  .then((health) => {
    const failed = Object.keys(health.checks).filter((name) => health.checks[name].status !== "ok");
    line.classList.add(failed.length ? "bad" : "good");
    line.textContent = failed.length ? `Not ready: ${failed.join(", ")}` : "Ready for requests";
  })
  .catch(() => {
    line.classList.add("bad");
    line.textContent = "The server does not answer";
  });
