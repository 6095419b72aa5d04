// The whole deployment, into one resource group. README.md beside this file walks through it.
targetScope = 'resourceGroup'

@description('Where everything is created.')
param location string = resourceGroup().location

@description('Starts the name of every resource.')
@minLength(3)
@maxLength(12)
param name string = 'geoworker'

@description('How work reaches the worker: it polls a queue, or the Function App calls it.')
@allowed(['service_bus', 'http_trigger'])
param mode string = 'service_bus'

@description('In http_trigger mode: give the Function App Service Bus queues of its own. The worker gets no role on them.')
param functionQueues bool = false

@description('What the worker runs on. containerApps scales by the length of the queue.')
@allowed(['appService', 'containerApps'])
param workerHost string = 'appService'

@description('Image in the registry, by digest or by tag: geoworker@sha256:… or geoworker:0.1.0.')
param image string

@description('An existing Azure Container Registry in this resource group.')
param registryName string

@description('Size of an App Service instance. P1v3: 2 cores, 8 GB.')
param workerSku string = 'P1v3'

@description('Workers. 1 unless you have read "Scaling" in docs/operations.md: each runs one task at a time with all of its instance.')
@minValue(1)
@maxValue(30)
param workerInstances int = 1

@description('Object id of the Entra group (or user) that administers the database.')
param databaseAdministratorId string

@description('Display name of that group, or the user principal name of that user.')
param databaseAdministratorName string

@description('What that administrator is.')
@allowed(['Group', 'User', 'ServicePrincipal'])
param databaseAdministratorType string = 'Group'

@description('Size of the database server.')
param databaseSku string = 'Standard_D2ds_v5'

@description('Tier of that size.')
@allowed(['Burstable', 'GeneralPurpose', 'MemoryOptimized'])
param databaseTier string = 'GeneralPurpose'

@description('Gigabytes of the share that is mounted at /mounts/etl-temp.')
@minValue(100)
param etlShareGigabytes int = 1024

@description('API key that callers send in X-Api-Key, and the Function App to the worker.')
@secure()
param apiKey string

@description('Standard Webhooks secret that signs callbacks: whsec_ and 24 or more random bytes in base64.')
@secure()
param callbackSecret string

@description('Who is told of dead-lettered messages and a full database.')
param alertEmail string

var suffix = uniqueString(resourceGroup().id)
var names = {
  worker: '${name}-worker-${suffix}'
  functionApp: '${name}-func-${suffix}'
  serviceBus: '${name}-bus-${suffix}'
  database: '${name}-db-${suffix}'
  data: take(toLower('${replace(name, '-', '')}data${suffix}'), 24)
  files: take(toLower('${replace(name, '-', '')}file${suffix}'), 24)
  host: take(toLower('${replace(name, '-', '')}host${suffix}'), 24)
  vault: take('${name}-kv-${suffix}', 24)
  insights: '${name}-insights'
  workspace: '${name}-logs'
}
var usesServiceBus = mode == 'service_bus'
var hasNamespace = usesServiceBus || functionQueues
var onContainerApps = workerHost == 'containerApps'
var databaseName = 'geoworker'

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  params: {
    location: location
    insightsName: names.insights
    workspaceName: names.workspace
    alertEmail: alertEmail
  }
}

module identities 'modules/identities.bicep' = {
  name: 'identities'
  params: {
    location: location
    name: name
    registryName: registryName
    withScaler: usesServiceBus && onContainerApps
  }
}

module vault 'modules/keyvault.bicep' = {
  name: 'keyvault'
  params: {
    location: location
    vaultName: names.vault
    apiKey: apiKey
    callbackSecret: callbackSecret
    readers: [identities.outputs.workerPrincipalId, identities.outputs.functionPrincipalId]
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  params: {
    location: location
    dataName: names.data
    filesName: names.files
    hostName: names.host
    shareGigabytes: etlShareGigabytes
    workerPrincipalId: identities.outputs.workerPrincipalId
    functionPrincipalId: identities.outputs.functionPrincipalId
  }
}

module database 'modules/postgres.bicep' = {
  name: 'postgres'
  params: {
    location: location
    serverName: names.database
    databaseName: databaseName
    skuName: databaseSku
    skuTier: databaseTier
    administratorId: databaseAdministratorId
    administratorName: databaseAdministratorName
    administratorType: databaseAdministratorType
    actionGroupId: monitoring.outputs.actionGroupId
  }
}

// In http_trigger mode there is a namespace only if the Function App is to have queues of its own, and in no case a role of
// the worker on it.
module serviceBus 'modules/servicebus.bicep' = if (hasNamespace) {
  name: 'servicebus'
  params: {
    location: location
    namespaceName: names.serviceBus
    workerPrincipalId: usesServiceBus ? identities.outputs.workerPrincipalId : ''
    functionPrincipalId: identities.outputs.functionPrincipalId
    scalerPrincipalId: identities.outputs.scalerPrincipalId
    actionGroupId: monitoring.outputs.actionGroupId
  }
}

// ---- settings; tests/deploy/test_settings_of_deployments.py holds these variables to app/settings.py ----

var serviceBusHost = '${names.serviceBus}.servicebus.windows.net'
var functionHost = '${names.functionApp}.azurewebsites.net'

var commonSettings = {
  DOCKER_ORCHESTRATION_MODE: mode
  DATABASE_ENTRA_AUTH: 'true'
  BLOB_ACCOUNT_URL: storage.outputs.blobUrl
  OUTPUT_URL: 'az://outputs'
  LOG_FORMAT: 'json'
}

var workerCommonSettings = {
  DATABASE_URL: 'postgresql://${identities.outputs.workerName}@${database.outputs.host}:5432/${databaseName}?sslmode=require'
  AZURE_CLIENT_ID: identities.outputs.workerClientId
  ETL_MOUNT: '/mounts/etl-temp'
  HOST: '0.0.0.0'
  PORT: '8080'
}
var workerServiceBusSettings = {
  SERVICE_BUS_FQDN: serviceBusHost
}
var workerHttpTriggerSettings = {
  CALLBACK_ALLOWED_HOSTS: functionHost
}
var workerSettings = union(
  commonSettings,
  workerCommonSettings,
  usesServiceBus ? workerServiceBusSettings : workerHttpTriggerSettings
)

var functionCommonSettings = {
  DATABASE_URL: 'postgresql://${identities.outputs.functionName}@${database.outputs.host}:5432/${databaseName}?sslmode=require'
  AZURE_CLIENT_ID: identities.outputs.functionClientId
  DATA_DIR: '/tmp/geoworker'
  AzureWebJobsStorage__accountName: names.host
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identities.outputs.functionClientId
}
var functionServiceBusSettings = {
  SERVICE_BUS_FQDN: serviceBusHost
  ServiceBusConnection__fullyQualifiedNamespace: serviceBusHost
  ServiceBusConnection__credential: 'managedidentity'
  ServiceBusConnection__clientId: identities.outputs.functionClientId
}
var functionHttpTriggerSettings = {
  DOCKER_WORKER_URL: 'https://${onContainerApps ? workerOnContainerApps.outputs.host : workerOnAppService.outputs.host}'
  CALLBACK_URL: 'https://${functionHost}/api/task/callback'
}
var functionSettings = union(
  commonSettings,
  functionCommonSettings,
  hasNamespace ? functionServiceBusSettings : {},
  usesServiceBus ? {} : functionHttpTriggerSettings
)

// Variable -> secret of the vault. Nothing secret is written into a setting: the platform fetches it when it starts.
var workerCommonSecrets = {
  API_KEYS: 'api-key'
}
var workerHttpTriggerSecrets = {
  CALLBACK_SECRETS: 'callback-secret'
}
var workerSecrets = union(workerCommonSecrets, usesServiceBus ? {} : workerHttpTriggerSecrets)
var functionCommonSecrets = {
  API_KEYS: 'api-key'
}
var functionHttpTriggerSecrets = {
  CALLBACK_SECRETS: 'callback-secret'
  DOCKER_WORKER_API_KEY: 'api-key'
}
var functionSecrets = union(functionCommonSecrets, usesServiceBus ? {} : functionHttpTriggerSecrets)

module workerOnAppService 'modules/worker-appservice.bicep' = if (!onContainerApps) {
  name: 'worker-appservice'
  params: {
    location: location
    appName: names.worker
    planName: '${name}-plan'
    sku: workerSku
    instances: workerInstances
    registryName: registryName
    image: image
    identityId: identities.outputs.workerId
    identityClientId: identities.outputs.workerClientId
    vaultName: vault.outputs.vaultName
    filesAccountName: storage.outputs.filesName
    shareName: storage.outputs.shareName
    insightsName: monitoring.outputs.insightsName
    settings: workerSettings
    secrets: workerSecrets
  }
}

module workerOnContainerApps 'modules/worker-containerapps.bicep' = if (onContainerApps) {
  name: 'worker-containerapps'
  params: {
    location: location
    appName: take('${name}-worker', 32)
    environmentName: '${name}-env'
    maxReplicas: workerInstances
    registryName: registryName
    image: image
    identityId: identities.outputs.workerId
    scalerId: identities.outputs.scalerId
    vaultName: vault.outputs.vaultName
    filesAccountName: storage.outputs.filesName
    shareName: storage.outputs.shareName
    workspaceName: monitoring.outputs.workspaceName
    insightsName: monitoring.outputs.insightsName
    serviceBusNamespace: usesServiceBus ? names.serviceBus : ''
    settings: workerSettings
    secrets: workerSecrets
  }
}

module functionApp 'modules/function.bicep' = {
  name: 'function'
  params: {
    location: location
    appName: names.functionApp
    planName: '${name}-func-plan'
    identityId: identities.outputs.functionId
    packageContainerUrl: storage.outputs.packageContainerUrl
    vaultName: vault.outputs.vaultName
    insightsName: monitoring.outputs.insightsName
    settings: functionSettings
    secrets: functionSecrets
  }
}

output functionAppName string = functionApp.outputs.appName
output functionAppUrl string = 'https://${functionHost}'
output workerUrl string = 'https://${onContainerApps ? workerOnContainerApps.outputs.host : workerOnAppService.outputs.host}'
output databaseHost string = database.outputs.host
output workerDatabaseUser string = identities.outputs.workerName
output functionDatabaseUser string = identities.outputs.functionName
