// HKube's worker without Kubernetes: argument 1 is the folder of the worker. zeromq, which needs a compiler, is
// replaced by sockets that do nothing: results are exchanged between tasks by the storage (v1).
const Module = require('module');
const folder = process.argv[2];
const load = Module._load;
class Socket {
    bind(...args) { const done = args.find(one => typeof one === 'function'); if (done) done(); }
    on() {} connect() {} send() {} close() {} setsockopt() {} removeAllListeners() {}
}
Module._load = function (name, ...rest) {
    return name === 'zeromq' ? { socket: () => new Socket() } : load.call(this, name, ...rest);
};
process.chdir(folder);
require(`${folder}/app.js`);
require(`${folder}/lib/worker`)._shouldCheckPodStatus = false;
