// Three small things that HTML alone does not do. Without this file every button and page works, only not by itself.
"use strict";

// Destructive buttons ask first. Without JavaScript the server asks, on a page of its own.
const dialog = document.getElementById("confirm");
let asking = null;

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.confirm || form.elements.confirmed) return;
  event.preventDefault();
  asking = form;
  document.getElementById("confirm-text").textContent = form.dataset.confirm;
  dialog.showModal();
});

document.getElementById("confirm-no").addEventListener("click", () => dialog.close());
document.getElementById("confirm-yes").addEventListener("click", () => {
  const yes = Object.assign(document.createElement("input"), { type: "hidden", name: "confirmed", value: "yes" });
  asking.append(yes);
  asking.submit();
});

// A page that nobody looks at asks for nothing, and one behind an open question does not move.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden || dialog.open) event.preventDefault();
});

// Says when the numbers are old.
const pulse = document.getElementById("pulse");
const text = pulse && pulse.querySelector("[role=status]");
const live = text && text.textContent;
const show = (isLive) => {
  if (!pulse || pulse.classList.contains("off") === !isLive) return;
  pulse.classList.toggle("off", !isLive);
  text.textContent = isLive ? live : pulse.dataset.offline;
};
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) document.addEventListener(name, () => show(false));
document.addEventListener("htmx:afterSwap", () => show(true));
