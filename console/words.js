// What the page says, in English and in Chinese.

const words = {
  skip: ["Skip to the content", "跳到正文"],
  language: ["Language", "语言"],
  overview: ["Overview", "概览"],
  channels: ["Channels", "频道"],
  client: ["Client", "客户端"],
  live: ["Live", "实时"],
  scripts: ["Scripts and log", "脚本与日志"],
  send: ["Send", "发送"],
  sure: ["Go on?", "确定继续吗？"],
  fine: ["nodes: %n, clients: %c", "节点 %n，客户端 %c"],
  stuck: ["workers that are stuck: %n", "%n 个工作线程卡住"],
  silent: ["nodes that do not answer: %n", "%n 个节点没有应答"],
  gone: ["The center does not answer", "中心没有应答"],
  waiting: ["Waiting for figures", "正在等待数据"],
  node: ["Node", "节点"],
  nodes: ["Nodes", "节点"],
  roles: ["Roles", "角色"],
  engine: ["engine", "引擎"],
  center: ["center", "中心"],
  version: ["Version", "版本"],
  started: ["Started", "启动于"],
  clients: ["Clients", "客户端"],
  memory: ["Memory", "内存"],
  workers: ["Workers", "工作线程"],
  connections: ["Connections", "连接数"],
  deliveries: ["Deliveries per second", "每秒投递数"],
  received: ["Messages from clients per second", "每秒收到的消息数"],
  handlers: ["Handler times", "处理函数耗时"],
  handlersNow: ["median; p99 %p", "中位数；p99 %p"],
  processor: ["Processor", "处理器"],
  cores: ["cores", "核"],
  minutes: ["The last three minutes", "最近三分钟"],
  inChannels: ["channels: %c", "频道 %c"],
  published: ["published %p/s, dropped %d/s", "发布 %p/s，丢弃 %d/s"],
  waits: ["handlers that wait: %n", "等待中的处理函数 %n"],
  lua: ["Lua %n", "Lua %n"],
  prefix: ["Names that begin with", "名称以此开头"],
  show: ["Show", "显示"],
  more: ["More", "更多"],
  channel: ["Channel", "频道"],
  count: ["Connections", "连接数"],
  none: ["There are none.", "没有。"],
  unanswered: ["Something is missing. Nodes that did not answer: %n.", "%n 个节点没有应答：结果不完整。"],
  who: ["Who is in it", "谁在其中"],
  noPresence: ["Who is in it is told where a rule of engine.channels says presence: true.", "只有 engine.channels 的规则中写有 presence: true 时才能列出成员。"],
  kept: ["Its last messages", "最近的消息"],
  place: ["Position", "位置"],
  info: ["Info", "信息"],
  watch: ["Watch live", "实时观察"],
  publishTo: ["Publish to it", "向它发布"],
  closeAll: ["Close all its connections", "关闭其全部连接"],
  closed: ["Connections that were told to close: %n.", "已通知 %n 个连接关闭。"],
  clientId: ["The client's id", "客户端 ID"],
  look: ["Look", "查看"],
  address: ["Address", "地址"],
  server: ["Server", "服务"],
  came: ["Connected", "连接于"],
  inOut: ["Messages", "消息"],
  counts: ["from it %i, to it %o", "来自它 %i，发给它 %o"],
  subscriptions: ["Subscriptions", "订阅数"],
  toWrite: ["Waiting to be written", "等待写出"],
  close: ["Close", "关闭"],
  closeIt: ["Close the connection of client %c", "关闭客户端 %c 的连接"],
  sendTo: ["Send to it", "向它发送"],
  whyNot: ["Why does it get nothing?", "为什么它收不到消息？"],
  whyIn: ["Of the channel", "在这个频道里"],
  ask: ["Ask", "询问"],
  readOnly: ["You may read, but not publish, send or close: your user lacks the role write.", "您只能查看，不能发布、发送或关闭：您的用户没有 write 角色。"],
  message: ["Message", "消息"],
  kind: ["As", "类型"],
  text: ["Text", "文本"],
  binary: ["Binary, given as base64", "二进制（以 base64 填写）"],
  published1: ["Connections reached: %s, failed: %f.", "送达 %s 个连接，失败 %f 个。"],
  sent: ["It was sent.", "已发送。"],
  toClient: ["To one client", "发给一个客户端"],
  toChannel: ["To a channel", "发到频道"],
  websocket: ["WebSocket client", "WebSocket 客户端"],
  url: ["Address", "地址"],
  connect: ["Connect", "连接"],
  disconnect: ["Disconnect", "断开"],
  open: ["open", "已连接"],
  ended: ["closed with %c", "已关闭，代码 %c"],
  refused: ["The browser could not connect. Either nobody listens there, or the server refuses pages of this address (allowedOrigins).", "浏览器无法连接：那里没有服务在监听，或者服务器拒绝来自本页地址的连接（allowedOrigins）。"],
  sendIt: ["Send", "发送"],
  start: ["Start", "开始"],
  stop: ["Stop", "停止"],
  onlyErrors: ["Errors only", "只看错误"],
  bodies: ["Show messages", "显示消息内容"],
  watching: ["Watching", "正在观察"],
  stopped: ["Stopped", "已停止"],
  again: ["Interrupted, trying again: %e", "已中断，正在重试：%e"],
  noTail: ["This center does not have it.", "这个中心没有此功能。"],
  clientHelp: ["Ids are in the part Live, in the log, and in channels whose rule says presence: true. The client may have gone.", "id 见于“实时”、日志，以及规则中写有 presence: true 的频道。已经离开的客户端也可以查询。"],
  liveHelp: ["Events of all nodes as they happen. A channel's name may end in *.", "所有节点上正在发生的事件。频道名可以 * 结尾。"],
  script: ["Script", "脚本"],
  since: ["Since", "生效于"],
  scriptState: ["State", "状态"],
  runs: ["runs", "运行中"],
  notTaken: ["A newer version was not taken up:", "新版本没有生效："],
  errorsNow: ["Errors as they happen", "正在发生的错误"],
  log: ["Log", "日志"],
  noErrors: ["None since this page was opened.", "打开本页以来没有错误。"],
  warnings: ["Warnings and errors only", "只看警告和错误"],
  demo: ["The demo", "演示"],
};

let index = 0;

/** The text with that name, and what stands for its `%x`. */
export function t(name, values = {}) {
  const text = words[name]?.[index] ?? name;
  return text.replace(/%(\w)/g, (all, key) => values[key] ?? all);
}

export function speak(language) {
  index = language === "zh" ? 1 : 0;
  document.documentElement.lang = index ? "zh" : "en";
}

/** What was chosen before, or else what the browser prefers. */
export function preferred() {
  let chosen;
  try {
    chosen = localStorage.getItem("language");
  } catch {
    // Nothing is kept here.
  }
  return chosen ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
}

export function choose(language) {
  try {
    localStorage.setItem("language", language);
  } catch {
    // Nothing is kept here.
  }
  speak(language);
}
