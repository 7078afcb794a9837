"use strict";

for (const button of document.querySelectorAll(".copy")) {
  const secret = button.parentElement.querySelector(".secret");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(secret.textContent);
      button.textContent = "Copied";
    } catch {
      // Without TLS browsers have no clipboard for pages: select it, so that Ctrl-C does.
      getSelection().selectAllChildren(secret);
    }
  });
}
