// Asks for the key of the API when the server wants one.

import { Problem, forgetKey, hasKey, setKey } from "./client.js";

const byId = (id) => document.getElementById(id);

/** Does what `attempt` does; where the server wants a key, asks for one and tries again. */
export async function withKey(attempt, signal) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 401) throw error;
      const wasRefused = hasKey();
      forgetKey();
      const key = await askKey(wasRefused, signal);
      if (!key) throw error;
      setKey(key);
    }
  }
}

/** What is typed, or "" when nothing is. Throws the signal's reason. */
function askKey(wasRefused, signal) {
  const dialog = byId("key-dialog"), input = byId("key");
  byId("key-title").textContent = wasRefused ? "That key isn't accepted" : "This server wants a key";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => dialog.close(), { once: true });
    dialog.addEventListener("close", () => {
      input.value = "";
      if (signal.aborted) reject(signal.reason);
      else resolve(dialog.returnValue);
      dialog.returnValue = "";
    }, { once: true });
  });
}

export function listenForKeys() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("key-dialog").close(byId("key").value.trim());
  });
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close(""));
}
