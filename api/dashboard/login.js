/** Hands a token to the service, which keeps it in a cookie that no script can read. */

const trouble = document.getElementById("trouble");

document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ token: document.getElementById("token").value.trim() });
  const response = await fetch("/v1/session", { method: "POST", headers: { "content-type": "application/json" }, body });
  if (response.ok) {
    location.assign("/");
    return;
  }
  trouble.textContent = (await response.json()).detail;
  trouble.hidden = false;
});
