// Does what HKube's algorithm-operator does for a new algorithm: has the queue QUEUE serve it.
// add_algorithm.js FOLDER_OF_ALGORITHM_QUEUE ETCD_PORT QUEUE ALGORITHM
const [folder, port, queueId, algorithmName] = process.argv.slice(2);
const Etcd = require(`${folder}/node_modules/@hkube/etcd`);
const etcd = new Etcd({ protocol: 'http', host: '127.0.0.1', port, serviceName: 'algorithm-operator' });
etcd.algorithmQueues.set({ queueId, action: 'add', algorithmName, timestamp: Date.now() }).then(
    () => process.exit(0),
    (error) => { console.error(error.message); process.exit(1); }
);
