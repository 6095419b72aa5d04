// Three accounts with three rules: data (blobs, Entra only), files (the SMB share, whose mount needs a key), and the
// Functions host's own (Entra only; the host wants to own its containers, so they are kept apart from the data).
param location string
param dataName string
param filesName string
param hostName string
param shareGigabytes int
param workerPrincipalId string
param functionPrincipalId string

var blobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var blobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var blobDataOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'

resource data 'Microsoft.Storage/storageAccounts@2024-01-01' = {
  name: dataName
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_ZRS'
  }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource dataBlobs 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' = {
  parent: data
  name: 'default'
  properties: {
    deleteRetentionPolicy: {
      enabled: true
      days: 14
    }
  }
}

resource sources 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: dataBlobs
  name: 'sources'
}

resource outputs 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: dataBlobs
  name: 'outputs'
}

resource workerReadsSources 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(sources.id, workerPrincipalId, blobDataReader)
  scope: sources
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataReader)
  }
}

resource workerWritesOutputs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(outputs.id, workerPrincipalId, blobDataContributor)
  scope: outputs
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
  }
}

resource functionReadsSources 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(sources.id, functionPrincipalId, blobDataReader)
  scope: sources
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataReader)
  }
}

resource functionWritesOutputs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(outputs.id, functionPrincipalId, blobDataContributor)
  scope: outputs
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
  }
}

resource files 'Microsoft.Storage/storageAccounts@2024-01-01' = {
  name: filesName
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource fileService 'Microsoft.Storage/storageAccounts/fileServices@2024-01-01' = {
  parent: files
  name: 'default'
}

resource share 'Microsoft.Storage/storageAccounts/fileServices/shares@2024-01-01' = {
  parent: fileService
  name: 'etl-temp'
  properties: {
    accessTier: 'TransactionOptimized'
    shareQuota: shareGigabytes
  }
}

resource host 'Microsoft.Storage/storageAccounts@2024-01-01' = {
  name: hostName
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource hostBlobs 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' = {
  parent: host
  name: 'default'
}

resource package 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: hostBlobs
  name: 'function-package'
}

resource functionOwnsHost 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(host.id, functionPrincipalId, blobDataOwner)
  scope: host
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataOwner)
  }
}

output blobUrl string = data.properties.primaryEndpoints.blob
output filesName string = files.name
output shareName string = share.name
output packageContainerUrl string = '${host.properties.primaryEndpoints.blob}${package.name}'
