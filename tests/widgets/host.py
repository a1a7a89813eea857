"""A page that shows one widget of this process: what Jupyter does for it, without Jupyter.

Traits and messages travel as they do between a page and a kernel, so what is tested here in
milliseconds is the widget itself. That it also works in JupyterLab, Notebook 7 and Voila is tested
in test_browser.py.
"""

import base64
import json
from contextlib import contextmanager

import anywidget

PAGE = """<!doctype html><meta charset="utf-8"><body><script type="module">
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const text = async (buffer) => {
    let letters = "";
    for (const byte of new Uint8Array(buffer)) letters += String.fromCharCode(byte);
    return btoa(letters);
};
class Model {
    constructor(state, script) {
        Object.assign(this, { state, script, heard: {}, changed: new Set() });
        this.busy = Promise.resolve();
    }
    get(name) { return this.state[name]; }
    set(name, value) {
        if (JSON.stringify(this.state[name]) === JSON.stringify(value)) return;
        this.state[name] = value;
        this.changed.add(name);
        this.tell(`change:${name}`);
    }
    on(name, handler) { (this.heard[name] ??= new Set()).add(handler); }
    off(name, handler) { this.heard[name]?.delete(handler); }
    tell(name, ...what) { for (const handler of this.heard[name] ?? []) handler(...what); }
    save_changes() {
        const traits = {};
        for (const name of this.changed) traits[name] = this.state[name];
        this.changed.clear();
        this.ask({ traits });
    }
    send(message, _, buffers = []) {
        this.ask(Promise.all(buffers.map(text)).then((encoded) => ({ message, buffers: encoded })));
    }
    ask(what) { this.busy = this.busy.then(async () => this.take(await kernel(await what))); }
    take({ traits, messages }) {
        Object.assign(this.state, traits);
        for (const name of Object.keys(traits)) this.tell(`change:${name}`);
        for (const [message, buffers] of messages) {
            this.tell("msg:custom", message, buffers.map(bytes));
        }
    }
}
window.show = async (script, state) => {
    const file = new Blob([script], { type: "text/javascript" });
    const module = await import(URL.createObjectURL(file));
    window.model = new Model(state, script);
    document.body.append(document.createElement("div"));
    window.end = module.default.render({ model: window.model, el: document.body.lastChild });
};
</script>"""


@contextmanager
def show(chromium, widget, **context):
    """Yield a page that shows the widget; `page.push()` brings what Python set meanwhile."""
    context = chromium.new_context(**context)
    page, messages, told = context.new_page(), [], {}
    names = set(widget.keys) - {*anywidget.AnyWidget().keys, "_css", "_esm", "_anywidget_id"}
    widget.send = lambda content, buffers=(): messages.append(
        [content, [base64.b64encode(b).decode() for b in buffers]]
    )

    def news():
        traits = {n: getattr(widget, n) for n in names}
        traits = {n: v for n, v in traits.items() if n not in told or told[n] != v}
        told.update(traits)
        answer = json.dumps({"traits": traits, "messages": messages})
        messages.clear()
        return json.loads(answer)

    def kernel(what):
        if "message" in what:
            buffers = [base64.b64decode(b) for b in what["buffers"]]
            widget._answer(widget, what["message"], buffers)
        else:
            told.update(what["traits"])
            for name, value in what["traits"].items():
                setattr(widget, name, tuple(value) if isinstance(value, list) else value)
        return news()

    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.expose_function("kernel", kernel)
    page.set_content(PAGE)
    page.add_style_tag(content=widget._css)
    page.wait_for_function("Boolean(window.show)")
    page.evaluate("([script, state]) => show(script, state)", [widget._esm, news()["traits"]])
    page.push = lambda: page.evaluate("news => model.take(news)", news())
    yield page
    context.close()
    assert not page.errors, page.errors
