/* Calls of Gradio's client to its server, so that a connection that breaks off ends a call and not the page.

   The client posts each call to queue/join. Over one stream of events, from queue/data, it hears of all calls; the server
   closes it after the last answer. But a call that is made while the server closes the stream is never answered, a stream
   that ends otherwise is never opened again, and after a call that cannot be sent the client takes no other. Here `fetch`
   holds back what would be too early, and answers in place of a server that is away: the call fails, and can be made
   again. The window then gets the event `wssl-lost`, and `wsslIsLost`. The script is the first one of the page. */
(() => {
  const LOST = "The connection broke off";
  const send = window.fetch.bind(window), news = new EventTarget();
  const calls = new Map();   // by number: {sent: the client knows it, heard: there was a message, done, lost}
  const joining = new Set();   // those that the client does not know yet
  let listening = false, closed = false;   // by the server

  const call = number => calls.get(number) ?? calls.set(number, {}).get(number);
  const awaited = () => [...calls].filter(([, {sent, done}]) => sent && !done);
  const change = () => news.dispatchEvent(new Event("change"));
  const changed = () => new Promise(resolve => news.addEventListener("change", resolve, {once: true}));
  const line = content => new TextEncoder().encode(`data: ${JSON.stringify(content)}\n\n`);

  function tell() {
    window.wsslIsLost = true;
    window.dispatchEvent(new Event("wssl-lost"));
  }

  function failed() {
    tell();
    return new Response(JSON.stringify({detail: LOST}), {status: 500, headers: {"Content-Type": "application/json"}});
  }

  async function join(...request) {
    const here = {};
    joining.add(here);
    let answer;
    try {
      answer = await send(...request);
      if (!answer.ok) return answer;
      const {event_id} = await answer.clone().json();
      const own = call(event_id);
      // It is heard of on the open stream, or that one is about to end and the client opens another.
      while (listening && !own.heard) await changed();
      own.sent = true;
      if (own.done || own.lost || here.lost) calls.delete(event_id);
      if (own.lost || here.lost) return failed();   // with the stream
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return failed();
    } finally {
      joining.delete(here);
    }
    await new Promise(resolve => setTimeout(resolve));   // the client hears of the stream's end first
    return answer;
  }

  /** Note what a line of the stream says; return whether the client is to have it. */
  function hear(text) {
    if (!text.startsWith("data:")) return true;
    const {msg, event_id} = JSON.parse(text.slice(5));
    closed ||= msg === "close_stream";
    if (!event_id) return !["close_stream", "unexpected_error"].includes(msg);   // `end` says what that means
    const own = call(event_id);
    own.heard = true;
    own.done ||= msg === "process_completed";
    if (own.sent && own.done) calls.delete(event_id);
    change();
    return true;
  }

  /** What ends the stream, and before it each call that was not answered. */
  function* end() {
    const output = {error: LOST, visible: true}, left = awaited();
    for (const [event_id] of left) {
      calls.delete(event_id);
      yield line({msg: "process_completed", event_id, output, success: false});
    }
    const unsent = closed ? [] : [...joining, ...calls.values()];
    for (const each of unsent) each.lost = true;
    if (left.length || unsent.length) tell();
    yield line({msg: "close_stream"});
  }

  async function* read(...request) {
    try {
      const answer = await send(...request);
      if (!answer.ok) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "", part; !(part = await reader.read()).done;) {
        const lines = (rest + part.value).split("\n");
        rest = lines.pop();
        yield lines;
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
  }

  function listen(...request) {
    const parts = read(...request), encoder = new TextEncoder();
    const stop = () => {
      listening = false;
      change();
    };
    listening = true;
    closed = false;
    const body = new ReadableStream({
      async pull(controller) {
        const {done, value} = await parts.next().catch(error => {
          stop();
          throw error;   // the client ended it itself
        });
        if (!done) return controller.enqueue(encoder.encode(`${value.filter(hear).join("\n")}\n`));
        for (const each of end()) controller.enqueue(each);
        controller.close();
        stop();
      },
      cancel() {
        stop();
        return parts.return();
      },
    });
    return new Response(body, {headers: {"Content-Type": "text/event-stream"}});
  }

  // Before Gradio, which closes its connection while the visitor is asked, and cannot open it again.
  window.addEventListener("beforeunload", event => {
    if (!window.wsslPage?.losable()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  });

  window.fetch = async (...request) => {
    const {pathname} = new URL(request[0].url ?? request[0], document.baseURI);
    if (pathname.endsWith("/queue/join")) return join(...request);
    if (pathname.endsWith("/queue/data")) return listen(...request);
    return send(...request);
  };
})();
