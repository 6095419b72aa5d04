// The worker as a container app. In service_bus mode the length of its queue decides how many there are, down to none.
param location string
param appName string
param environmentName string
param maxReplicas int
param registryName string
param image string
param identityId string

@description('Identity that reads the length of the queue; empty in http_trigger mode.')
param scalerId string

param vaultName string
param filesAccountName string
param shareName string
param workspaceName string
param insightsName string

@description('Empty in http_trigger mode.')
param serviceBusNamespace string

param settings object

@description('Variable -> name of the secret in the vault.')
param secrets object

var byQueueLength = !empty(serviceBusNamespace)

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = {
  name: registryName
}

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName
}

resource filesAccount 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: filesAccountName
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' existing = {
  name: workspaceName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

var platformSettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  SHUTDOWN_GRACE_SECONDS: '540'
}
var plainVariables = map(items(union(settings, platformSettings)), one => {
  name: one.key
  value: one.value
})
var secretVariables = map(items(secrets), one => {
  name: one.key
  secretRef: one.value
})
// two variables may share one secret: each secret is listed once
var vaultSecrets = map(union(map(items(secrets), one => one.value), []), one => {
  name: one
  keyVaultUrl: '${vault.properties.vaultUri}secrets/${one}'
  identity: identityId
})
var identityIds = byQueueLength ? [identityId, scalerId] : [identityId]
var queueLengthRule = {
  name: 'queue-length'
  custom: {
    type: 'azure-servicebus'
    metadata: {
      namespace: serviceBusNamespace
      queueName: 'long-running-tasks'
      messageCount: '1'
    }
    identity: scalerId
  }
}
var scalerOutsideContainers = {
  identity: scalerId
  lifecycle: 'None'
}

resource environment 'Microsoft.App/managedEnvironments@2025-01-01' = {
  name: environmentName
  location: location
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: workspace.properties.customerId
        sharedKey: workspace.listKeys().primarySharedKey
      }
    }
  }

  resource etlTemp 'storages' = {
    name: 'etl-temp'
    properties: {
      azureFile: {
        accountName: filesAccount.name
        accountKey: filesAccount.listKeys().keys[0].value
        shareName: shareName
        accessMode: 'ReadWrite'
      }
    }
  }
}

resource app 'Microsoft.App/containerApps@2025-01-01' = {
  name: appName
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: toObject(identityIds, one => one, one => {})
  }
  properties: {
    environmentId: environment.id
    configuration: {
      activeRevisionsMode: 'Single'
      identitySettings: byQueueLength ? [scalerOutsideContainers] : []
      ingress: {
        external: !byQueueLength
        targetPort: 8080
        allowInsecure: false
      }
      registries: [
        {
          server: registry.properties.loginServer
          identity: identityId
        }
      ]
      secrets: vaultSecrets
    }
    template: {
      terminationGracePeriodSeconds: 600
      containers: [
        {
          name: 'worker'
          image: '${registry.properties.loginServer}/${image}'
          args: ['worker']
          env: concat(plainVariables, secretVariables)
          resources: {
            cpu: json('2.0')
            memory: '4Gi'
          }
          probes: [
            {
              type: 'Startup'
              httpGet: {
                path: '/livez'
                port: 8080
              }
              periodSeconds: 5
              failureThreshold: 24
            }
            {
              type: 'Liveness'
              httpGet: {
                path: '/livez'
                port: 8080
              }
              periodSeconds: 15
              failureThreshold: 4
            }
            {
              type: 'Readiness'
              httpGet: {
                path: '/readyz'
                port: 8080
              }
              periodSeconds: 10
              failureThreshold: 3
            }
          ]
          volumeMounts: [
            {
              volumeName: 'etl-temp'
              mountPath: '/mounts/etl-temp'
            }
          ]
        }
      ]
      scale: {
        minReplicas: byQueueLength ? 0 : 1
        maxReplicas: maxReplicas
        rules: byQueueLength ? [queueLengthRule] : []
      }
      volumes: [
        {
          name: 'etl-temp'
          storageType: 'AzureFile'
          storageName: environment::etlTemp.name
          mountOptions: 'uid=10001,gid=10001,dir_mode=0770,file_mode=0660,mfsymlinks'
        }
      ]
    }
  }
}

output host string = app.properties.configuration.ingress.fqdn
