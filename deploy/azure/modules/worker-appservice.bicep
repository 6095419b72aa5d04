// The worker as a web app for containers.
param location string
param appName string
param planName string
param sku string

@description('Instances of the plan. Each is one worker, and each worker runs one task at a time.')
param instances int

param registryName string
param image string
param identityId string
param identityClientId string
param vaultName string
param filesAccountName string
param shareName string
param insightsName string
param settings object

@description('Variable -> name of the secret in the vault.')
param secrets object

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = {
  name: registryName
}

resource filesAccount 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: filesAccountName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

var platformSettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  SHUTDOWN_GRACE_SECONDS: '90'
  WEBSITES_CONTAINER_START_TIME_LIMIT: '230'
  WEBSITES_CONTAINER_STOP_TIME_LIMIT: '120'
  WEBSITES_ENABLE_APP_SERVICE_STORAGE: 'false'
  WEBSITES_PORT: '8080'
  WEBSITE_HEALTHCHECK_MAXPINGFAILURES: '5'
}
var secretSettings = toObject(
  items(secrets),
  secret => secret.key,
  secret => '@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${secret.value})'
)

// Capacity 1 by default: a task of this worker wants a whole instance, and one worker is the simplest thing to watch.
// More are safe (claims are fenced); see "Scaling" in docs/operations.md for when they help.
resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: planName
  location: location
  kind: 'linux'
  sku: {
    name: sku
    capacity: instances
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: appName
  location: location
  kind: 'app,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    clientAffinityEnabled: false
    siteConfig: {
      linuxFxVersion: 'DOCKER|${registry.properties.loginServer}/${image}'
      acrUseManagedIdentityCreds: true
      acrUserManagedIdentityID: identityClientId
      alwaysOn: true
      ftpsState: 'Disabled'
      healthCheckPath: '/livez'
      http20Enabled: true
      minTlsVersion: '1.2'
    }
  }

  resource appSettings 'config' = {
    name: 'appsettings'
    properties: union(settings, platformSettings, secretSettings)
  }

  resource mounts 'config' = {
    name: 'azurestorageaccounts'
    properties: {
      'etl-temp': {
        type: 'AzureFiles'
        accountName: filesAccount.name
        shareName: shareName
        mountPath: '/mounts/etl-temp'
        accessKey: filesAccount.listKeys().keys[0].value
      }
    }
  }

  resource basicPublishingCredentials 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: {
      allow: false
    }
  }
}

output host string = app.properties.defaultHostName
