// The tab's part of its live pictures' names: the same after the page was loaded anew.
const KEY = "Vega.LiveName";
const RELOAD_MS = 500; // in which a page that is loaded anew has let its name go

// Until the page ends. A duplicated tab begins with the first one's storage, and may not share its pictures.
function holdName(name) {
  if (!navigator.locks) return true; // pages that are neither https nor localhost have none
  const signal = AbortSignal.timeout(RELOAD_MS);
  return new Promise((answer) => {
    const forever = () => new Promise(() => answer(true));
    navigator.locks.request(`${KEY} ${name}`, { signal }, forever).catch(() => answer(false));
  });
}

const newName = () => crypto.getRandomValues(new Uint32Array(3)).join("-");

async function findName() {
  let name = sessionStorage.getItem(KEY) ?? newName();
  if (!(await holdName(name))) await holdName((name = newName()));
  sessionStorage.setItem(KEY, name);
  return name;
}

export const tabName = await findName();
