// Three queues, and for each process exactly the rights that its part of the walk needs.
param location string
param namespaceName string

@description('Empty in http_trigger mode: the worker has no role then.')
param workerPrincipalId string

param functionPrincipalId string

@description('Empty where nothing scales by the length of a queue.')
param scalerPrincipalId string

param actionGroupId string

var sender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'
var receiver = '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0'
var owner = '090c5cfd-751d-490a-894a-3ce6f1109419'

// A lock of five minutes is the longest there is; it is renewed while a task runs. Ten deliveries: each lost lock costs one.
var queueProperties = {
  lockDuration: 'PT5M'
  maxDeliveryCount: 10
  defaultMessageTimeToLive: 'P14D'
  deadLetteringOnMessageExpiration: true
  requiresDuplicateDetection: false
  requiresSession: false
}

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: namespaceName
  location: location
  sku: {
    name: 'Standard'
    tier: 'Standard'
  }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
  }
}

resource jobs 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {
  parent: bus
  name: 'geospatial-jobs'
  properties: queueProperties
}

resource tasks 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {
  parent: bus
  name: 'geospatial-tasks'
  properties: queueProperties
}

resource longRunning 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {
  parent: bus
  name: 'long-running-tasks'
  properties: queueProperties
}

// worker: takes long tasks, reports stages as complete, sends a long task's hint again
resource workerReceives 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(workerPrincipalId)) {
  name: guid(longRunning.id, 'worker', receiver)
  scope: longRunning
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', receiver)
  }
}

resource workerSendsTasks 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(workerPrincipalId)) {
  name: guid(longRunning.id, 'worker', sender)
  scope: longRunning
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

resource workerSendsJobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(workerPrincipalId)) {
  name: guid(jobs.id, 'worker', sender)
  scope: jobs
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

// Function App: its triggers take jobs and short tasks; it sends to all three
resource functionReceivesJobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(jobs.id, functionPrincipalId, receiver)
  scope: jobs
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', receiver)
  }
}

resource functionReceivesTasks 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(tasks.id, functionPrincipalId, receiver)
  scope: tasks
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', receiver)
  }
}

resource functionSendsJobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(jobs.id, functionPrincipalId, sender)
  scope: jobs
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

resource functionSendsTasks 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(tasks.id, functionPrincipalId, sender)
  scope: tasks
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

resource functionSendsLongTasks 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(longRunning.id, functionPrincipalId, sender)
  scope: longRunning
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

// Reading a queue's length is a management operation: KEDA wants Manage, and the one role that has it is Data Owner.
// It is given on that queue alone, to an identity that no container can use.
resource scalerReadsLength 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(scalerPrincipalId)) {
  name: guid(longRunning.id, 'scaler', owner)
  scope: longRunning
  properties: {
    principalId: scalerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', owner)
  }
}

// A dead letter means one thing here, that something could not even be recorded: somebody should look at the first one.
resource deadLetters 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: '${namespaceName}-dead-letters'
  location: 'global'
  properties: {
    description: 'A message was dead-lettered. See "Messages are dead-lettered" in docs/operations.md.'
    enabled: true
    severity: 2
    scopes: [bus.id]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          criterionType: 'StaticThresholdCriterion'
          name: 'dead letters'
          metricName: 'DeadletteredMessages'
          timeAggregation: 'Maximum'
          operator: 'GreaterThan'
          threshold: 0
          dimensions: [
            {
              name: 'EntityName'
              operator: 'Include'
              values: [jobs.name, tasks.name, longRunning.name]
            }
          ]
        }
      ]
    }
    actions: [
      {
        actionGroupId: actionGroupId
      }
    ]
  }
}
